"""What a fleet of independent series is made of; its public face is ``smcssm.fleet``."""
