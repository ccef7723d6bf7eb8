package openstack

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"go.yaml.in/yaml/v3"
)

type credential struct {
	auth         gophercloud.AuthOptions
	region       string
	availability gophercloud.Availability
	tls          *tls.Config
}

const maxCredentialFile = 64 << 10

// readCredential accepts application credentials only: a password would give a daemon everything its person may do, and
// could not be revoked by itself.
func readCredential(cfg Config) (credential, error) {
	var cred credential
	var err error
	switch {
	case cfg.ApplicationCredentialFile != "" && (cfg.CloudsFile != "" || cfg.CloudsEntry != ""):
		return credential{}, errors.New("both a clouds.yaml entry and an application credential file are given")
	case cfg.ApplicationCredentialFile != "":
		cred, err = fromCredentialFile(cfg.ApplicationCredentialFile)
	case cfg.CloudsFile != "" && cfg.CloudsEntry != "":
		cred, err = fromClouds(cfg.CloudsFile, cfg.CloudsEntry)
	default:
		return credential{}, errors.New("no credential: give a clouds.yaml file and entry, or an application credential file")
	}
	if err != nil {
		return credential{}, err
	}
	a := cred.auth
	if a.IdentityEndpoint == "" {
		return credential{}, errors.New("credential has no auth_url")
	}
	if a.ApplicationCredentialID == "" || a.ApplicationCredentialSecret == "" {
		return credential{}, errors.New("credential is no application credential with id and secret")
	}
	// Whatever else the entry says is dropped: an application credential brings its own user and scope. AllowReauth is
	// false unless set here, whatever a file says.
	cred.auth = gophercloud.AuthOptions{
		IdentityEndpoint:            a.IdentityEndpoint,
		ApplicationCredentialID:     a.ApplicationCredentialID,
		ApplicationCredentialSecret: a.ApplicationCredentialSecret,
		AllowReauth:                 true,
	}
	return cred, nil
}

func fromClouds(file, entry string) (credential, error) {
	raw, err := readBounded(file)
	if err != nil {
		return credential{}, fmt.Errorf("reading clouds file: %w", err)
	}
	// The reader forms keep the library from searching directories and from merging files that nobody named; the
	// options given by name would otherwise come from the environment.
	auth, endpoint, tlsConfig, err := clouds.Parse(
		clouds.WithCloudsYAML(bytes.NewReader(raw)),
		clouds.WithSecureYAML(bytes.NewReader([]byte("clouds: {}\n"))),
		clouds.WithCloudsPublicYAML(bytes.NewReader([]byte("public-clouds: {}\n"))),
		clouds.WithCloudName(entry),
		clouds.WithRegion(""),
		clouds.WithEndpointType(""),
	)
	if err != nil {
		// The parser's error may quote the file.
		return credential{}, fmt.Errorf("reading entry %q of clouds file %s: it is missing or not valid", entry, file)
	}
	return credential{auth: auth, region: endpoint.Region, availability: endpoint.Availability, tls: tlsConfig}, nil
}

func fromCredentialFile(file string) (credential, error) {
	raw, err := readBounded(file)
	if err != nil {
		return credential{}, fmt.Errorf("reading application credential: %w", err)
	}
	var f struct {
		AuthURL string `yaml:"auth_url"`
		ID      string `yaml:"application_credential_id"`
		Secret  string `yaml:"application_credential_secret"`
		Region  string `yaml:"region_name"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		return credential{}, fmt.Errorf("reading application credential %s: it is not the expected YAML", file)
	}
	return credential{
		auth: gophercloud.AuthOptions{
			IdentityEndpoint:            f.AuthURL,
			ApplicationCredentialID:     f.ID,
			ApplicationCredentialSecret: f.Secret,
		},
		region:       f.Region,
		availability: gophercloud.AvailabilityPublic,
	}, nil
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCredentialFile {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", file, maxCredentialFile)
	}
	return os.ReadFile(file)
}
