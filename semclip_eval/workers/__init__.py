"""One run over several workers: processes of this machine, or Ray actors. The driver alone writes."""
