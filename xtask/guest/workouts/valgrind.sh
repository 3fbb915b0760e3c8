# A translator of instructions inside the guest, around programs with code of their own making and without.
printf 'print(sum(i * i for i in range(20000)))' > squares.py
valgrind -q --tool=none python3 squares.py || exit
valgrind -q --tool=memcheck openssl dgst -sha512 /usr/bin/bash || exit
valgrind -q --tool=none --smc-check=all luajit -Ohotloop=2 programs.lua || exit
