package cloudsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Config is what the simulated site offers. The zero value of every field but Dir is usable.
type Config struct {
	Dir     string // volumes, images and consoles; made if missing
	Region  string // "RegionOne"
	Latency Latency
	Quotas  Quotas

	Flavors     []Flavor
	VolumeTypes []VolumeType

	// Boot starts the machine of a server that becomes ACTIVE. Nil: servers become ACTIVE without one.
	Boot func(BootSpec) (Machine, error)
	// StopTimeout is how long a machine may take over an orderly stop before it is killed; zero means 60 s, as Nova's.
	StopTimeout time.Duration

	ComputeMax          string // highest microversion of Nova; "2.93", as Zed's
	KeyManagerMax       string // of Barbican; empty: none is advertised, as in Zed
	BarbicanNewDefaults bool   // the newer policy, under which a private secret's ACL is closed to colleagues
	SoftDelete          bool   // Nova keeps deleted servers as SOFT_DELETED
}

// Latency is how long the asynchronous changes take.
type Latency struct {
	Server, Volume, Delete time.Duration
	API                    time.Duration // of every answer
}

// Quotas of each project. Zero means a generous default; a negative number means none at all may be made.
type Quotas struct {
	Servers, VCPUs, RAMMiB, Volumes, VolumeGiB, Ports, SecurityGroups, Secrets, Images int
}

// Flavor is a shape of server.
type Flavor struct {
	ID, Name      string
	VCPUs, RAMMiB int
	ExtraSpecs    map[string]string
}

// VolumeType is a kind of volume.
type VolumeType struct {
	ID, Name    string
	MultiAttach bool
	Encrypted   bool
}

// BootSpec is what a machine is given.
type BootSpec struct {
	Server            string // id
	Name              string
	Flavor            string // its name
	Kernel, Initrd    string // paths
	Append            string
	VCPUs, MemMiB     int
	Disks             []Disk // root first
	MAC               string
	GuestAgentChannel bool   // image property hw_qemu_guest_agent=yes
	Console           string // path; appended to
}

// Disk is one raw disk with the serial that the guest sees: the first 20 characters of the volume's id.
type Disk struct{ Path, Serial string }

// Machine is a running guest.
type Machine interface {
	Powerdown(ctx context.Context) error // ACPI
	Kill()
	Done() <-chan struct{} // closed when it has ended
}

// Cloud is one simulated site. It is an http.Handler.
type Cloud struct {
	cfg Config

	mu       sync.Mutex
	closed   bool
	quit     chan struct{} // closed with it
	work     sync.WaitGroup
	seq      int64 // orders what was created within one tick of the clock
	projects map[string]*project
	creds    map[string]*Credential
	tokens   map[string]*token
	servers  map[string]*server
	volumes  map[string]*vol
	networks map[string]*netw
	ports    map[string]*port
	groups   map[string]*group
	images   map[string]*img
	buried   map[string]bool // ids of deleted images, which Glance never gives again
	secrets  map[string]*secret
	created  map[string]int
	faults   []*Fault
	noHost   bool
	catalog  map[string]string // service type → base URL that replaces the true one
}

type project struct{ ID, Name string }

// Credential is an application credential, with the user and project it stands for.
type Credential struct {
	ID, Secret        string
	UserID, UserName  string
	ProjectID, Region string
	Roles             []string
	AccessRules       bool
}

// New makes an empty cloud with the given flavors.
func New(cfg Config) (*Cloud, error) {
	if cfg.Dir == "" {
		return nil, errors.New("cloudsim: no directory")
	}
	for _, d := range []string{"volumes", "images", "consoles"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("cloudsim: making directories: %w", err)
		}
	}
	if cfg.Region == "" {
		cfg.Region = "RegionOne"
	}
	if cfg.ComputeMax == "" {
		cfg.ComputeMax = "2.93"
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = time.Minute
	}
	if len(cfg.Flavors) == 0 {
		cfg.Flavors = []Flavor{{ID: "1", Name: "siesta.small", VCPUs: 1, RAMMiB: 512}}
	}
	if len(cfg.VolumeTypes) == 0 {
		cfg.VolumeTypes = []VolumeType{{Name: "sparse"}}
	}
	for i := range cfg.VolumeTypes {
		if cfg.VolumeTypes[i].ID == "" {
			cfg.VolumeTypes[i].ID = newID()
		}
	}
	return &Cloud{
		cfg:      cfg,
		quit:     make(chan struct{}),
		projects: map[string]*project{}, creds: map[string]*Credential{}, tokens: map[string]*token{},
		servers: map[string]*server{}, volumes: map[string]*vol{}, networks: map[string]*netw{}, ports: map[string]*port{},
		groups: map[string]*group{}, images: map[string]*img{}, buried: map[string]bool{}, secrets: map[string]*secret{},
		created: map[string]int{}, catalog: map[string]string{},
	}, nil
}

// Close ends every machine and waits for what is still going on.
func (c *Cloud) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.quit)
	}
	for _, s := range c.servers {
		if s.machine != nil {
			s.machine.Kill()
		}
	}
	c.mu.Unlock()
	c.work.Wait()
}

// after runs fn under the lock when d has passed, unless the cloud is closed by then.
func (c *Cloud) after(d time.Duration, fn func()) {
	if c.closed {
		return
	}
	c.work.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.quit:
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			fn()
		}
	})
}

// AddProject makes a project and returns its id.
func (c *Cloud) AddProject(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &project{ID: hexID(), Name: name}
	c.projects[p.ID] = p
	g := c.newGroupLocked(p.ID, "default", "Default security group")
	g.rules = append(g.rules, &rule{ID: newID(), Direction: "ingress", EtherType: "IPv4", RemoteGroup: g.ID},
		&rule{ID: newID(), Direction: "ingress", EtherType: "IPv6", RemoteGroup: g.ID})
	return p.ID
}

// AddCredential makes a user in the project and an application credential with the given roles.
func (c *Cloud) AddCredential(projectID, user string, roles ...string) *Credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	cr := &Credential{ID: hexID(), Secret: hexID() + hexID(), UserID: hexID(), UserName: user, ProjectID: projectID, Region: c.cfg.Region, Roles: roles}
	c.creds[cr.ID] = cr
	return cr
}

// RevokeCredential deletes an application credential; its tokens stop working too.
func (c *Cloud) RevokeCredential(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.creds, id)
	for k, t := range c.tokens {
		if t.cred.ID == id {
			delete(c.tokens, k)
		}
	}
}

// ExpireTokens makes every token invalid, so that clients must authenticate again.
func (c *Cloud) ExpireTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// AddNetwork makes a network with one subnet 10.0.0.0/16 and returns its id.
func (c *Cloud) AddNetwork(projectID, name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &netw{ID: newID(), Name: name, Project: projectID, Subnet: newID()}
	c.networks[n.ID] = n
	return n.ID
}

// LetMembersIn gives every security group the rule by which its members reach each other, as a colleague in a dashboard might.
func (c *Cloud) LetMembersIn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.groups {
		g.rules = append(g.rules, &rule{ID: newID(), Direction: "ingress", EtherType: "IPv4", RemoteGroup: g.ID})
	}
}

// NoValidHost makes every server created from now on end in ERROR, or not.
func (c *Cloud) NoValidHost(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noHost = on
}

// SetQuotas replaces the quotas.
func (c *Cloud) SetQuotas(q Quotas) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Quotas = q
}

// Poison makes the catalog name another base URL for a service type.
func (c *Cloud) Poison(serviceType, url string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.catalog[serviceType] = url
}

// Created says how many of a kind were ever created: server, volume, port, security group, image, secret, token.
func (c *Cloud) Created(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.created[kind]
}

// Living says how many of a kind there are now.
func (c *Cloud) Living(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return map[string]int{
		"server": len(c.servers), "volume": len(c.volumes), "port": len(c.ports), "security group": len(c.groups) - len(c.projects),
		"image": len(c.images), "secret": len(c.secrets),
	}[kind]
}

// CloudsYAML is a clouds.yaml with one entry per name, for a cloud that listens at url.
func CloudsYAML(url string, entries map[string]*Credential) []byte {
	out := "clouds:\n"
	for name, cr := range entries {
		out += fmt.Sprintf("  %s:\n    auth_type: v3applicationcredential\n    region_name: %s\n    interface: public\n    auth:\n      auth_url: %s/identity/v3\n"+
			"      application_credential_id: %s\n      application_credential_secret: %s\n", name, cr.Region, url, cr.ID, cr.Secret)
	}
	return []byte(out)
}

// limit turns a quota of the configuration into a number.
func limit(configured, otherwise int) int {
	switch {
	case configured == 0:
		return otherwise
	case configured < 0:
		return 0
	}
	return configured
}
