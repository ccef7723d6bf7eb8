package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	gopherstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

// service describes one OpenStack service: how the catalog calls it, which version is spoken, and which microversions.
type service struct {
	name    string
	types   []string // in order of preference
	version string   // path segment
	project bool     // the project id follows the version
	minimum string   // lowest microversion that serves; empty: none is spoken
	wanted  string   // the microversion spoken where offered; never "latest"
}

// Microversions. Compute 2.61 shows a flavor's extra specs with the flavor, 2.75 refuses unknown parameters; 2.90 is the
// last that changed anything we send (every release since Xena has it, Zed ends at 2.93). From 2.101 on an attachment
// answers 202, which gophercloud refuses: never above 2.100. Volume 3.53 validates what it is sent (Rocky). Key manager
// 1.1 has the consumers of secrets, 1.2 refuses to delete a secret with consumers without being forced.
var (
	identity   = service{name: "identity", types: []string{"identity"}, version: "v3"}
	compute    = service{name: "compute", types: []string{"compute"}, version: "v2.1", minimum: "2.61", wanted: "2.90"}
	volume     = service{name: "volume", types: []string{"block-storage", "volumev3", "block-store", "volume"}, version: "v3", project: true, minimum: "3.53", wanted: "3.53"}
	network    = service{name: "network", types: []string{"network"}, version: "v2.0"}
	image      = service{name: "image", types: []string{"image"}, version: "v2"}
	keyManager = service{name: "key-manager", types: []string{"key-manager"}, version: "v1", wanted: "1.2"}
)

// session is one authentication with what was discovered under it. Its maps are guarded by the client's lock.
type session struct {
	provider *gophercloud.ProviderClient
	identity Identity
	catalog  []tokens.CatalogEntry
	services map[string]*gophercloud.ServiceClient
}

func (c *Client) acquire(ctx context.Context) error {
	select {
	case c.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &Error{Kind: Retryable, Service: identity.name, Op: "waiting for authentication", cause: ctx.Err()}
	}
}

func (c *Client) release() { <-c.lock }

func (c *Client) authenticated(ctx context.Context) (*session, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	defer c.release()
	return c.authenticatedLocked(ctx)
}

// authenticatedLocked makes the session once. A failure is not kept: the next call tries again.
func (c *Client) authenticatedLocked(ctx context.Context) (*session, error) {
	if c.session != nil {
		return c.session, nil
	}
	const op = "authenticating"
	provider, err := gopherstack.NewClient(c.auth.IdentityEndpoint)
	if err != nil {
		return nil, &Error{Kind: Permanent, Service: identity.name, Op: op, Reason: "auth_url is not usable"}
	}
	provider.HTTPClient = c.http
	provider.UserAgent.Prepend("siestad")
	auth := c.auth
	if err := gopherstack.AuthenticateV3(withWire(ctx, identity.name), provider, &auth, gophercloud.EndpointOpts{}); err != nil {
		return nil, classify(request{service: identity, op: op, method: "POST", repeatable: true}, err)
	}
	s := &session{provider: provider, services: map[string]*gophercloud.ServiceClient{}}
	if err := s.readToken(); err != nil {
		return nil, &Error{Kind: Permanent, Service: identity.name, Op: op, Reason: err.Error()}
	}
	c.session = s
	return s, nil
}

var keystoneID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

func (s *session) readToken() error {
	result, ok := s.provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return errors.New("no token came back")
	}
	user, err := result.ExtractUser()
	if err != nil || user == nil {
		return errors.New("token names no user")
	}
	project, err := result.ExtractProject()
	if err != nil || project == nil {
		return errors.New("token is not scoped to a project")
	}
	roles, err := result.ExtractRoles()
	if err != nil {
		return errors.New("token names no roles")
	}
	token, err := result.ExtractToken()
	if err != nil {
		return errors.New("token has no expiry")
	}
	catalog, err := result.ExtractServiceCatalog()
	if err != nil || catalog == nil {
		return errors.New("token carries no catalog")
	}
	if !keystoneID.MatchString(user.ID) || !keystoneID.MatchString(project.ID) {
		return errors.New("token's user or project id is not one")
	}
	var rules struct {
		Credential struct {
			AccessRules []struct{} `json:"access_rules"`
		} `json:"application_credential"`
	}
	// Absent from tokens of releases before Train and of unrestricted credentials: then there are no rules to know of.
	_ = result.ExtractIntoStructPtr(&rules, "token")
	s.identity = Identity{
		UserID: user.ID, UserName: clean(user.Name, 255),
		ProjectID: project.ID, ProjectName: clean(project.Name, 255),
		ExpiresAt:   token.ExpiresAt,
		AccessRules: len(rules.Credential.AccessRules) > 0,
	}
	for _, r := range roles {
		s.identity.Roles = append(s.identity.Roles, clean(r.Name, 255))
	}
	s.catalog = catalog.Entries
	return nil
}

// service returns the client for one service, discovering its endpoint and microversion at first use.
func (c *Client) service(ctx context.Context, svc service) (*gophercloud.ServiceClient, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	defer c.release()
	s, err := c.authenticatedLocked(ctx)
	if err != nil {
		return nil, err
	}
	if sc := s.services[svc.name]; sc != nil {
		return sc, nil
	}
	base, err := c.endpoint(s, svc)
	if err != nil {
		return nil, err
	}
	// Built by hand and not by the library's constructors: those may make calls that no context ends, and take the
	// first endpoint that fits.
	sc := &gophercloud.ServiceClient{ProviderClient: s.provider, Endpoint: base, ResourceBase: base, Type: svc.types[0]}
	if svc.wanted != "" {
		if sc.Microversion, err = c.negotiate(ctx, s.provider, svc, base); err != nil {
			return nil, err
		}
	}
	s.services[svc.name] = sc
	return sc, nil
}

// errNoService marks a service that the catalog does not offer at all.
var errNoService = errors.New("the catalog has no such service")

// endpoint picks the one endpoint of a service for our region and interface, and refuses a host that is not allowed.
func (c *Client) endpoint(s *session, svc service) (string, error) {
	fail := func(reason string, cause error) error {
		return &Error{Kind: Permanent, Service: svc.name, Op: "reading the catalog", Object: c.cfg.Site, Reason: reason, cause: cause}
	}
	var found []string
	for _, typ := range svc.types {
		for _, entry := range s.catalog {
			if entry.Type != typ {
				continue
			}
			for _, e := range entry.Endpoints {
				region := e.RegionID
				if region == "" {
					region = e.Region
				}
				if e.Interface != string(c.avail) || c.cfg.Region != "" && region != c.cfg.Region {
					continue
				}
				if !slices.Contains(found, e.URL) {
					found = append(found, e.URL)
				}
			}
		}
		if len(found) > 0 {
			break // a service registered under its old name as well
		}
	}
	switch {
	case len(found) == 0:
		return "", fail(fmt.Sprintf("no %s endpoint in region %q", c.avail, c.cfg.Region), errNoService)
	case len(found) > 1:
		return "", fail("several endpoints fit; set the region", nil)
	}
	u, err := url.Parse(found[0])
	if err != nil {
		return "", fail("the endpoint is not a URL", nil)
	}
	if err := c.http.Transport.(*wire).hosts.check(u); err != nil {
		return "", fail(err.Error(), nil)
	}
	if strings.HasPrefix(c.auth.IdentityEndpoint, "https:") && u.Scheme != "https" {
		return "", fail("the endpoint is not https, though Keystone is", nil)
	}
	u.RawQuery = ""
	u.Path = serviceRoot(u.Path) + "/" + svc.version + "/"
	u.RawPath = ""
	if svc.project {
		u.Path += s.identity.ProjectID + "/"
	}
	return u.String(), nil
}

var versionSegment = regexp.MustCompile(`^v[0-9]+(\.[0-9]+)?$`)

// serviceRoot cuts the version, and what follows it, from an endpoint's path: catalogs differ in whether they name them.
func serviceRoot(path string) string {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	if i := slices.IndexFunc(segments, versionSegment.MatchString); i >= 0 {
		segments = segments[:i]
	}
	root := strings.Join(segments, "/")
	if root != "" {
		root = "/" + root
	}
	return root
}
