package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/policy"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// policies puts the documents and floors that people put into force over what the configuration admits.
func policies(c *Config, db *pgxpool.Pool, recorder *audit.Recorder, clouds []workspace.Site) (*policy.Service, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	keys, err := floorKeys(c.Attestation.FloorKeys)
	if err != nil {
		return nil, err
	}
	sites := map[string]attest.Policy{}
	for _, s := range clouds {
		sites[s.Name] = s.Policy
	}
	return policy.New(policy.Config{
		DB: db, Audit: recorder, Sites: sites, Archive: keybroker.NewArchive(db, roots), Verifier: &attest.Verifier{}, FloorKeys: keys, Host: hosts(c),
	}), nil
}

// registeredChip is a chip or a platform as leases and freezes name it, with the machine that it is in.
type registeredChip struct{ id, host string }

func (s SiteConfig) registered() (all []registeredChip) {
	for _, chip := range s.Chips {
		all = append(all, registeredChip{strings.ToLower(chip.ID), chip.Host})
	}
	for _, p := range s.Platforms {
		// A PPID is shorter than the field of an SEV-SNP report, to which a verdict fills it up.
		all = append(all, registeredChip{strings.ToLower(p.PPID) + strings.Repeat("0", 128-len(p.PPID)), p.Host})
	}
	return all
}

// hosts names the machines of registered chips.
func hosts(c *Config) keybroker.HostOf {
	names := map[[2]string]string{}
	for _, s := range c.Sites {
		for _, chip := range s.registered() {
			names[[2]string{s.Name, chip.id}] = chip.host
		}
	}
	return func(site, chip string) string { return names[[2]string{site, chip}] }
}

// freezable is what the configuration names and a freeze may name.
func freezable(c *Config) []permit.Site {
	var list []permit.Site
	for _, s := range c.Sites {
		site := permit.Site{Name: s.Name}
		for _, chip := range s.registered() {
			site.Chips = append(site.Chips, chip.id)
			if chip.host != "" && !slices.Contains(site.Hosts, chip.host) {
				site.Hosts = append(site.Hosts, chip.host)
			}
		}
		list = append(list, site)
	}
	return list
}

// floorKeys reads the public keys that sign floor files.
func floorKeys(files []string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading a key of floor files: %w", err)
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("reading a key of floor files: %s holds no PEM public key", file)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a key of floor files: %s: %w", file, err)
		}
		public, ok := key.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("reading a key of floor files: %s is no Ed25519 key", file)
		}
		keys = append(keys, public)
	}
	return keys, nil
}
