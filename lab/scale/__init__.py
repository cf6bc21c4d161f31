"""What `lab.bench_scale` is made of. The programs in here that both builds run import nothing of this folder."""
