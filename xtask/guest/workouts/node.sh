# The compilers of V8: as it sees fit, at once, and with its interpreter alone.
for options in --opt --always-sparkplug --jitless; do
    echo "$options"
    node "$options" programs.js || exit
done
