package openstack

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Config names one site and the credential to use there. Nothing in it is read from the environment.
type Config struct {
	Site         string // the site's name in siestad's configuration, for messages
	Installation string // eight characters [a-z0-9]: the prefix of everything this installation owns

	// Exactly one source of an application credential.
	CloudsFile                string // path of a clouds.yaml …
	CloudsEntry               string // … and the entry in it
	ApplicationCredentialFile string // or a YAML file with auth_url, application_credential_id, application_credential_secret

	Region       string   // empty: the entry's own; required where the catalog has more than one
	AllowedHosts []string // host or host:port of Keystone and every endpoint; anything else is refused

	Transport http.RoundTripper // nil: a transport with timeouts and the entry's CA
	Timeout   time.Duration     // of each HTTP call; zero means 30 s
}

// Client speaks to one site with one credential. It is safe for concurrent use and makes no call before it is asked to.
type Client struct {
	cfg Config
}

// New checks the configuration and reads the credential. It does not touch the network.
func New(cfg Config) (*Client, error) { return &Client{cfg: cfg}, nil }

// Identity is who the credential is, as Keystone says.
type Identity struct {
	UserID, UserName       string
	ProjectID, ProjectName string
	Roles                  []string
	ExpiresAt              time.Time
	AccessRules            bool // the credential is limited by access rules
}

// Site returns the configured name of the site.
func (c *Client) Site() string { return c.cfg.Site }

// Identity authenticates if need be and says as whom.
func (c *Client) Identity(ctx context.Context) (Identity, error) { return Identity{}, errUnwritten }

var errUnwritten = errors.New("openstack: not written yet")
