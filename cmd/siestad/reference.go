package main

import (
	"fmt"
	"os"

	"github.com/eosc-siesta/siestad/internal/api"
	"github.com/eosc-siesta/siestad/internal/corim"
)

// publisher signs reference values in the name of the log, which is the name that auditors know this installation by.
func publisher(c *Config) (api.Publisher, error) {
	if c.ReferenceValues.KeyFile == "" {
		return api.Publisher{}, nil
	}
	key, err := publisherKey(c.ReferenceValues.KeyFile)
	if err != nil {
		return api.Publisher{}, err
	}
	return api.Publisher{Name: c.Log.Origin, Build: buildName(), Key: key}, nil
}

func publisherKey(file string) (corim.PrivateKey, error) {
	der, err := readPEM(file)
	if err != nil {
		return corim.PrivateKey{}, err
	}
	key, err := corim.ParsePrivateKey(der)
	if err != nil {
		return corim.PrivateKey{}, fmt.Errorf("reading key %s: %w", file, err)
	}
	return key, nil
}

// endorserKeys reads the public keys that sign documents about files.
func endorserKeys(files []string) ([]corim.PublicKey, error) {
	var keys []corim.PublicKey
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading a key of endorsements: %w", err)
		}
		key, err := corim.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("reading a key of endorsements: %s: %w", file, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
