"""The table of IPVS: as `ipvsadm-save` and scripts write it, and as the running kernel has it."""
