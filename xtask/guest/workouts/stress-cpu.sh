# stress-ng's computations, each once, checked by itself where it can.
methods=$(stress-ng --cpu-method none 2>&1 | sed 's/.*: //')
for method in $methods; do
    [ "$method" = all ] && continue
    if timeout 600 stress-ng --verify --cpu 1 --cpu-method "$method" --cpu-ops 1 > log 2>&1; then
        echo "$method ok"
    else
        echo "$method ended with $?"
        cat log >&2
    fi
done
