/* The speed of OpenSSL's ciphers over a number of blocks, where `openssl speed` takes a time: openssl-blocks NAME COUNT.
 * Writes the last digest, or the tag after all blocks. */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char in[8192], out[8192], result[EVP_MAX_MD_SIZE];

int main(int argc, char **argv)
{
	unsigned length = 16;
	int ok = argc == 3, written;
	long count = ok ? atol(argv[2]) : 0;

	if (ok && !strcmp(argv[1], "sha256")) {
		for (long i = 0; ok && i < count; i++) {
			memcpy(in, &i, sizeof i);
			ok = EVP_Digest(in, sizeof in, result, &length, EVP_sha256(), NULL);
		}
	} else if (ok && !strcmp(argv[1], "aes-128-gcm")) {
		EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();
		ok = gcm && EVP_EncryptInit_ex(gcm, EVP_aes_128_gcm(), NULL, in, in);
		for (long i = 0; ok && i < count; i++)
			ok = EVP_EncryptUpdate(gcm, out, &written, in, sizeof in);
		ok = ok && EVP_EncryptFinal_ex(gcm, out, &written)
			&& EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_GET_TAG, 16, result);
	} else {
		ok = 0;
	}
	return !ok || fwrite(result, 1, length, stdout) != length || fflush(stdout);
}
