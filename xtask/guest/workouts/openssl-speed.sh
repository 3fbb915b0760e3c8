# What OpenSSL measures of itself, for the code that it chooses by processor.
set -e
for e in aes-128-gcm aes-256-cbc aes-128-ctr aes-256-xts chacha20-poly1305 camellia-128-cbc sha1 sha256 sha512 sha3-256 md5 blake2b512 sm4 aria-128-cbc aes-128-ocb aes-256-ccm; do
  openssl speed -seconds 1 -bytes 8192 -evp $e >&2 && echo $e ran
done
for e in ghash cmac rsa2048 dsa2048 ecdsap256 ecdhx25519 ed25519 ed448 ffdh2048; do
  timeout 300 openssl speed -seconds 1 $e >&2 && echo $e ran
done
