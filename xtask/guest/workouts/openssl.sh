# Digests of data made here, each cipher there and back, keys, signatures, derivations.
set -e
seq 1 60000 > data; head -c 100001 data > odd
for m in $(openssl list -digest-commands); do
  for n in 0 1 55 56 63 64 65 111 112 127 128 129 1000 100001; do
    head -c $n data | openssl dgst -$m 2>/dev/null | sed "s/^/$m $n /" || echo "$m $n refused"
  done
done
for c in $(openssl list -cipher-commands); do
  case $c in *-ccm|*-gcm|*wrap*|base64|zlib|zstd|brotli) continue;; esac
  openssl enc -$c -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 0f0e0d0c0b0a09080706050403020100 -in odd -out enc -provider default -provider legacy 2>/dev/null || { echo "$c refused"; continue; }
  echo "$c $(sha256sum < enc)"
  openssl enc -d -$c -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 0f0e0d0c0b0a09080706050403020100 -in enc -out dec -provider default -provider legacy 2>/dev/null
  cmp odd dec
done
for m in HMAC KMAC256 Poly1305 SIPHASH CMAC; do
  case $m in HMAC) o="-digest SHA512 -macopt hexkey:00112233";; CMAC) o="-cipher AES-256-CBC -macopt hexkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";; Poly1305) o="-macopt hexkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";; SIPHASH) o="-macopt hexkey:000102030405060708090a0b0c0d0e0f";; *) o="-macopt hexkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";; esac
  echo $m $(openssl mac $o -in odd $m)
done
# Signatures: made with fresh keys, checked here; fixed ones are compared.
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa 2>/dev/null; openssl pkey -in rsa -pubout -out rsa.pub
openssl dgst -sha256 -sign rsa -out sig odd; openssl dgst -sha256 -verify rsa.pub -signature sig odd
for curve in prime256v1 secp384r1 secp521r1 secp224r1 brainpoolP256r1 secp256k1 sect283k1; do
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:$curve -out ec; openssl pkey -in ec -pubout -out ec.pub
  openssl dgst -sha384 -sign ec -out sig odd; openssl dgst -sha384 -verify ec.pub -signature sig odd
done
for a in ED25519 ED448; do
  openssl genpkey -algorithm $a -out ed; openssl pkey -in ed -pubout -out ed.pub
  openssl pkeyutl -sign -inkey ed -rawin -in odd -out sig; openssl pkeyutl -verify -pubin -inkey ed.pub -rawin -in odd -sigfile sig
done
for a in X25519 X448; do
  openssl genpkey -algorithm $a -out a; openssl genpkey -algorithm $a -out b
  openssl pkey -in a -pubout -out a.pub; openssl pkey -in b -pubout -out b.pub
  openssl pkeyutl -derive -inkey a -peerkey b.pub -out ab; openssl pkeyutl -derive -inkey b -peerkey a.pub -out ba; cmp ab ba && echo $a agrees
done
openssl prime -generate -bits 512 > p; openssl prime $(cat p) | sed 's/.* is/is/'
openssl kdf -keylen 64 -kdfopt digest:SHA256 -kdfopt pass:secret -kdfopt salt:salt -kdfopt iter:20000 PBKDF2
openssl kdf -keylen 64 -kdfopt pass:secret -kdfopt salt:salt -kdfopt n:1024 -kdfopt r:8 -kdfopt p:2 SCRYPT
