"""ldirectord.cf: virtual services with their real servers and checks."""
