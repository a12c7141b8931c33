"""The answer: pictures, pages and text."""

import os

from simulator.files import own_temporary_folder

# matplotlib keeps its list of fonts in the user's home. Where that cannot be written, it says so and looks for fonts again at every start.
if "MPLCONFIGDIR" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK) and (folder := own_temporary_folder()) is not None:
    os.environ["MPLCONFIGDIR"] = str(folder)
