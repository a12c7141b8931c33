"""`make engines`: predictions sealed before they are measured, on engines that others wrote."""
