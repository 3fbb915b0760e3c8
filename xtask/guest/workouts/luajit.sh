# The same programs interpreted, compiled, and compiled in so little memory that code is thrown away all the time.
for options in -joff -jon -O3 -Ohotloop=1,hotexit=1 -Omaxmcode=64,sizemcode=32,hotloop=2; do
    echo "$options"
    luajit "$options" programs.lua || exit
done
