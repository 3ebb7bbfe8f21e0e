"""A fleet over many processes and machines; its public face is ``smcssm.distributed.driver.RayFleet``."""
