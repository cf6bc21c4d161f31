"""The verdict on a VIP, and the facts it depends on."""
