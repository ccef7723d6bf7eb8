//go:build !pkcs11

package main

import (
	"errors"

	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// hasPKCS11 says whether this build can use a token. It needs cgo, which the static default build has not.
const hasPKCS11 = false

// errNoPKCS11 is for whoever comes past check-config, which has said it already.
var errNoPKCS11 = errors.New("this siestad was built without PKCS#11; build it with -tags pkcs11 and cgo")

func openToken(*Config) (keybroker.Keyring, error) { return nil, errNoPKCS11 }

func createToken(*Config) error { return errNoPKCS11 }
