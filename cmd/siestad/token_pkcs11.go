//go:build pkcs11

package main

import "github.com/eosc-siesta/siestad/internal/keybroker"

// hasPKCS11 says whether this build can use a token. It needs cgo, which the static default build has not.
const hasPKCS11 = true

func tokenConfig(c *Config) keybroker.PKCS11Config {
	t := c.Keyring.PKCS11
	return keybroker.PKCS11Config{Module: t.Module, Token: t.Token, PINFile: t.PINFile, Installation: c.Installation}
}

func openToken(c *Config) (keybroker.Keyring, error) {
	return keybroker.OpenPKCS11Keyring(tokenConfig(c))
}

func createToken(c *Config) error {
	_, err := keybroker.CreatePKCS11Keyring(tokenConfig(c))
	return err
}
