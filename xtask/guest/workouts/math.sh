# The same arithmetic by the vector unit and by the x87, in code for 64 bits and for 32.
for options in -m64 '-m32 -mfpmath=387' '-m32 -msse2 -mfpmath=sse'; do
    # shellcheck disable=SC2086
    gcc -O2 -frounding-math $options -o math math.c -lm || exit
    echo "$options"
    ./math || exit
done
