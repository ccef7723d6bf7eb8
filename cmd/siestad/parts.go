package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/eosc-siesta/siestad/internal/api"
	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// dsn is the connection string with the password, in memory only.
func (d DatabaseConfig) dsn() (string, error) {
	if d.PasswordFile == "" {
		return d.Connection, nil
	}
	password, err := os.ReadFile(d.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("reading the database's password: %w", err)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(strings.TrimSpace(string(password)))
	if strings.Contains(d.Connection, "://") {
		return "", fmt.Errorf("database.connection is a URL; with a password_file write it as host=… dbname=… user=…")
	}
	return d.Connection + " password='" + quoted + "'", nil
}

// openKeyring opens what the configuration names. It never makes a keyring: a new one beside an old database would look
// healthy and open nothing.
func openKeyring(c *Config) (keybroker.Keyring, error) {
	if c.Keyring.PKCS11 != (PKCS11Config{}) {
		return openToken(c)
	}
	return keybroker.OpenFileKeyring(c.Keyring.File)
}

// sites makes a client for each credential and says what each site's evidence must meet.
func sites(c *Config) ([]workspace.Site, error) {
	var list []workspace.Site
	for _, s := range c.Sites {
		compute, err := cloud(c, s, s.Compute)
		if err != nil {
			return nil, err
		}
		keys, err := cloud(c, s, s.Keys)
		if err != nil {
			return nil, err
		}
		policy, err := sitePolicy(c.Attestation, s)
		if err != nil {
			return nil, err
		}
		if c.Collateral.KDSURL != "" {
			policy.Revocation = attest.RevocationRequired // lists are at hand, so nobody goes without one
		}
		broker, err := brokerAddress(s.BrokerURL)
		if err != nil {
			return nil, err
		}
		var sigs []uint32
		for _, name := range s.VCPUTypes {
			sig, ok := attest.VCPUSig(name)
			if !ok {
				return nil, fmt.Errorf("site %s: processor model %q is not known", s.Name, name)
			}
			sigs = append(sigs, sig)
		}
		family, bits := "IPv4", 32
		if broker.IP.To4() == nil {
			family, bits = "IPv6", 128
		}
		list = append(list, workspace.Site{
			Name: s.Name, Client: compute, Keys: keys, Network: s.Network, Flavors: s.Flavors, VolumeType: s.VolumeType,
			MaxDataGiB: s.MaxDataGiB, TEE: workspace.TEE(s.TEE), VCPUSigs: sigs, GuestFeatures: s.GuestFeatures,
			Policy: policy, BrokerURL: s.BrokerURL,
			// A guest needs one way out, to the broker, and none in. DHCP passes by the cloud's built-in rules.
			Rules: []openstack.Rule{{
				Direction: "egress", EtherType: family, Protocol: "tcp", PortMin: broker.Port, PortMax: broker.Port,
				RemotePrefix: fmt.Sprintf("%s/%d", broker.IP, bits),
			}},
		})
	}
	return list, nil
}

func cloud(c *Config, s SiteConfig, credential CredentialConfig) (*openstack.Client, error) {
	return openstack.New(openstack.Config{
		Site: s.Name, Installation: c.Installation, Region: s.Region, AllowedHosts: s.AllowedHosts,
		CloudsFile: credential.CloudsFile, CloudsEntry: credential.Cloud, ApplicationCredentialFile: credential.File,
	})
}

// sitePolicy is everything but measurements and line, which each workspace has of its own.
func sitePolicy(a AttestationConfig, s SiteConfig) (attest.Policy, error) {
	if workspace.TEE(s.TEE).OnTDX() {
		return tdxPolicy(a.TDX, s)
	}
	policy := attest.NovaPolicy(a.MinTCB)
	policy.RequireAliasCheck = a.RequireAliasCheck
	if len(a.RevocationLists) > 0 {
		policy.Revocation = attest.RevocationRequired
	}
	policy.Simulated = workspace.TEE(s.TEE).Simulated()
	for _, chip := range s.Chips {
		id, err := hex.DecodeString(chip.ID)
		if err != nil {
			return attest.Policy{}, fmt.Errorf("site %s: chip id: %w", s.Name, err)
		}
		policy.Chips = append(policy.Chips, id)
	}
	return policy, nil
}

// tdxPolicy is sitePolicy for a site of trust domains. What a guest measures into RTMR3 while it runs is nothing.
func tdxPolicy(a TDXConfig, s SiteConfig) (attest.Policy, error) {
	tdx := attest.NovaTDXPolicy()
	if len(a.TCBStatuses) > 0 {
		tdx.TCBStatuses = a.TCBStatuses
	}
	tdx.MinEvaluationNumber = a.MinEvaluationNumber
	tdx.XFAM = attest.MaskedBits{Mask: s.XFAMMask, Value: s.XFAM}
	if s.XFAMMask == 0 {
		tdx.XFAM.Mask = ^uint64(0)
	}
	tdx.RTMRs[0].Any = len(s.RTMR0) == 0
	tdx.RTMRs[3].Values = [][]byte{make([]byte, 48)}
	for _, value := range s.RTMR0 {
		raw, err := hex.DecodeString(value)
		if err != nil {
			return attest.Policy{}, fmt.Errorf("site %s: rtmr0: %w", s.Name, err)
		}
		tdx.RTMRs[0].Values = append(tdx.RTMRs[0].Values, raw)
	}
	for _, p := range s.Platforms {
		ppid, err := hex.DecodeString(p.PPID)
		if err != nil {
			return attest.Policy{}, fmt.Errorf("site %s: ppid: %w", s.Name, err)
		}
		tdx.Platforms = append(tdx.Platforms, ppid)
	}
	return attest.Policy{TDX: &tdx, Simulated: workspace.TEE(s.TEE).Simulated()}, nil
}

// apiSites is what the API shows of each site. Preflight looks with both credentials: the one that makes servers, and the
// one that keeps keys, whose secrets the former must not be able to read.
func apiSites(clouds []workspace.Site) []api.Site {
	var list []api.Site
	for _, s := range clouds {
		list = append(list, api.Site{
			Name: s.Name, TEE: string(s.TEE), Flavors: s.Flavors, Capacity: s.Client.Capacity,
			Preflight: func(ctx context.Context) (openstack.Report, error) {
				report, err := s.Client.Preflight(ctx, openstack.PreflightSpec{
					Roles: []string{"member"}, TEE: string(s.TEE), Flavors: s.Flavors, Network: s.Network, VolumeType: s.VolumeType,
					Need: openstack.Need{Servers: 1, Volumes: 2, VolumeGiB: 2},
				})
				if err != nil {
					return report, err
				}
				keys, err := s.Keys.Preflight(ctx, openstack.PreflightSpec{Keys: true, Other: s.Client})
				for _, check := range keys.Checks {
					check.Name = "keys: " + check.Name
					report.Checks = append(report.Checks, check)
				}
				return report, err
			},
		})
	}
	return list
}
