# Python's own tests, module by module. What a module skips is its own affair, how it ends is not.
for module in test_array test_ast test_audioop test_base64 test_binascii test_bisect test_buffer test_builtin test_bytes \
    test_bz2 test_cmath test_codecs test_collections test_colorsys test_compile test_complex test_copy test_crypt \
    test_ctypes test_datetime test_decimal test_descr test_dict test_dis test_enum test_exceptions test_faulthandler \
    test_float test_fork1 test_format test_fractions test_functools test_gc test_generators test_gzip test_hashlib \
    test_heapq test_hmac test_int test_io test_itertools test_json test_list test_long test_lzma test_marshal test_math \
    test_memoryview test_mmap test_pickle test_posix test_pow test_random test_re test_select test_set test_signal \
    test_sort test_statistics test_strtod test_struct test_thread test_threading test_time test_tokenize test_tuple \
    test_unicode test_wait4 test_weakref test_zlib; do
    mkdir "$module"
    if (cd "$module" && python3 -m test "$module" > ../log 2>&1); then
        echo "$module passed"
    else
        echo "$module ended with $?"
        cat log >&2
    fi
    rm -r "$module"
done
