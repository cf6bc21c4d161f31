"""The verdict on a VIP, and what it rests on."""
