"""Announce a shared virtual IP over BGP from every healthy IPVS balancer at once."""

__version__ = "0.1.0"
