"""`dsim validate --silicon`: runs of real servers in the sample of the package aiconfigurator-core, predicted from operators alone."""
