# HotSpot: both compilers, the first alone, the second alone and at once.
javac -d . Programs.java || exit
for options in -XX:+UseSerialGC -XX:+UseParallelGC -XX:TieredStopAtLevel=1 \
    '-XX:-TieredCompilation -Xcomp -XX:CompileCommand=quiet -XX:CompileOnly=Programs'; do
    echo "$options"
    # shellcheck disable=SC2086
    java -Xmx300m $options Programs || exit
done
