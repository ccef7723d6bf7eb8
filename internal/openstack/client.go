package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
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
	cfg    Config
	prefix string // siesta-v1-<installation>-: what is ours begins with it
	auth   gophercloud.AuthOptions
	avail  gophercloud.Availability
	http   http.Client

	// lock admits one goroutine to authentication and discovery; a channel, so that a waiter's context counts.
	lock    chan struct{}
	session *session
}

var installationID = regexp.MustCompile(`^[a-z0-9]{8}$`)

// New checks the configuration and reads the credential. It does not touch the network.
func New(cfg Config) (*Client, error) {
	var faults []error
	if cfg.Site == "" {
		faults = append(faults, errors.New("site has no name"))
	}
	if !installationID.MatchString(cfg.Installation) {
		faults = append(faults, errors.New("installation must be eight characters of a-z and 0-9"))
	}
	if len(cfg.AllowedHosts) == 0 {
		faults = append(faults, errors.New("allowed hosts are empty: name every host of the site's catalog"))
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Timeout < 0 {
		faults = append(faults, errors.New("timeout is negative"))
	}
	cred, err := readCredential(cfg)
	if err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("openstack site %q: %w", cfg.Site, errors.Join(faults...))
	}
	if cfg.Region == "" {
		cfg.Region = cred.region
	}
	hosts, err := newHostList(cfg.AllowedHosts)
	if err != nil {
		return nil, fmt.Errorf("openstack site %q: %w", cfg.Site, err)
	}
	identity, err := url.Parse(cred.auth.IdentityEndpoint)
	if err != nil {
		return nil, fmt.Errorf("openstack site %q: reading auth_url: it is not a URL", cfg.Site)
	}
	if err := hosts.check(identity); err != nil {
		return nil, fmt.Errorf("openstack site %q: auth_url: %w", cfg.Site, err)
	}
	base := cfg.Transport
	if base == nil {
		base = newTransport(cred.tls)
	}
	c := &Client{
		cfg:    cfg,
		prefix: "siesta-v1-" + cfg.Installation + "-",
		auth:   cred.auth,
		avail:  cred.availability,
		http: http.Client{
			Transport: &wire{base: base, hosts: hosts, timeout: cfg.Timeout},
			// A redirect would carry the token to wherever the answer says.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		lock: make(chan struct{}, 1),
	}
	return c, nil
}

// String and GoString keep the credential out of whatever prints a client.
func (c *Client) String() string { return "openstack site " + c.cfg.Site }

// GoString is String: %#v prints fields otherwise.
func (c *Client) GoString() string { return c.String() }

// Site returns the configured name of the site.
func (c *Client) Site() string { return c.cfg.Site }

// Identity is who the credential is, as Keystone says.
type Identity struct {
	UserID, UserName       string
	ProjectID, ProjectName string
	Roles                  []string
	ExpiresAt              time.Time
	AccessRules            bool // the credential is limited by access rules
}

// Identity authenticates if need be and says as whom.
func (c *Client) Identity(ctx context.Context) (Identity, error) {
	s, err := c.authenticated(ctx)
	if err != nil {
		return Identity{}, err
	}
	return s.identity, nil
}

// owned says whether a name is this installation's.
func (c *Client) owned(name string) bool { return strings.HasPrefix(name, c.prefix) }

var ownName = regexp.MustCompile(`^siesta-v1-[a-z0-9]{8}-[a-z0-9-]{1,44}$`)

// nameable refuses to create what this installation could not find again, or what the name filters of Nova (a regular
// expression) and Barbican (LIKE) would understand as a pattern.
func (c *Client) nameable(svc, op, name string) error {
	if !ownName.MatchString(name) || !c.owned(name) {
		return &Error{Kind: Permanent, Service: svc, Op: op, Object: name, Reason: "the name is not of the form " + c.prefix + "…"}
	}
	return nil
}
