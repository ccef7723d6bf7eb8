package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// Site is one cloud on which workspaces can run.
type Site struct {
	Name string
	// Client makes servers, volumes and networks; Keys keeps wrapped keys, with a credential of its own.
	Client *openstack.Client
	Keys   *openstack.Client
	// Network is the name or id of the network that guests are put on.
	Network string
	// Flavors that a workspace may ask for, by name.
	Flavors    []string
	VolumeType string
	MaxDataGiB int // largest data volume; 0 means 1024
	TEE        TEE
	// VCPUSigs and GuestFeatures are what the site's hosts may give a guest: every pair is one acceptable measurement. TDX has none.
	VCPUSigs      []uint32
	GuestFeatures []uint64
	// Policy is what evidence from the site must meet, but for measurements and line, which each workspace has of its own. That of
	// a TDX site has the part TDX and nothing for SEV-SNP.
	Policy attest.Policy
	// BrokerURL is where the site's guests reach the broker; it is measured.
	BrokerURL string
	// Rules of every guest's security group; nothing else passes.
	Rules []openstack.Rule
}

// Facts is the permissions' side of admission.
type Facts interface {
	ReleaseFacts(ctx context.Context, tx pgx.Tx, q permit.FactQuery) (permit.FactSet, error)
}

// Images is where kernels, initrds and firmware come from.
type Images interface {
	Image(ctx context.Context, id string) (image.Image, error)
	Open(ctx context.Context, sha256 [32]byte) (io.ReadCloser, error)
}

// Config of a Service. All fields without a default are required.
type Config struct {
	DB           *pgxpool.Pool
	Audit        *audit.Recorder
	Logger       *zap.Logger
	Flow         *flow.Runner
	Broker       *keybroker.Broker
	Permit       Facts
	Images       Images
	Installation string // eight characters [a-z0-9]
	BrokerKey    string // siesta.kb: door.KeyHash of the broker's public key
	Sites        []Site
	Times        Times

	// wrap lets tests come between a flow and its runner.
	wrap func(flow.Flow[run]) flow.Flow[run]
	// reference computes what a trust domain measures; tests, whose files are none, put another in its place.
	reference func(attest.TDLaunch) (attest.TDReference, error)
}

// Times are how long things may take. Zero fields get the defaults named.
type Times struct {
	Boot     time.Duration // from the server's creation to ACTIVE, waiting for capacity included: 15 min
	Attest   time.Duration // from ACTIVE to the guest's evidence, and from there to each next stage: 10 min
	Volume   time.Duration // until a volume is available: 10 min
	Stop     time.Duration // until a server that was asked to stop is off: 10 min
	Delete   time.Duration // until the cloud has let go of a resource: 1 h
	SweepGap time.Duration // between the two sweeps at the end of a deletion: 10 s
	Watch    time.Duration // between two looks at a workspace that was ready: 1 min
}

// Service creates, reboots, deletes and explains workspaces.
type Service struct {
	cfg       Config
	sites     map[string]*Site
	measuring chan struct{} // holds one: see domain
}

var installationPattern = regexp.MustCompile(`^[a-z0-9]{8}$`)

// New checks the configuration and registers the flows with the runner.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.DB == nil, cfg.Audit == nil, cfg.Flow == nil, cfg.Broker == nil, cfg.Permit == nil, cfg.Images == nil:
		return nil, errors.New("workspace: a part is missing")
	case !installationPattern.MatchString(cfg.Installation):
		return nil, errors.New("workspace: the installation id is not 8 characters of a-z and 0-9")
	case cfg.BrokerKey == "":
		return nil, errors.New("workspace: no hash of the broker's key")
	}
	if cfg.reference == nil {
		cfg.reference = attest.TDLaunch.Reference
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Service{cfg: cfg, sites: map[string]*Site{}, measuring: make(chan struct{}, 1)}
	for i := range cfg.Sites {
		site := cfg.Sites[i]
		if err := site.check(); err != nil {
			return nil, err
		}
		if s.sites[site.Name] != nil {
			return nil, fmt.Errorf("workspace: site %s is configured twice", site.Name)
		}
		if site.MaxDataGiB == 0 {
			site.MaxDataGiB = 1024
		}
		s.sites[site.Name] = &site
	}
	for _, f := range []flow.Flow[run]{s.createFlow(), s.rebootFlow(), s.deleteFlow()} {
		if cfg.wrap != nil {
			f = cfg.wrap(f)
		}
		if err := flow.Register(cfg.Flow, f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Site) check() error {
	switch {
	case s.Name == "" || s.Client == nil || s.Keys == nil:
		return fmt.Errorf("workspace: site %q needs a name and two clients", s.Name)
	case s.Network == "" || s.BrokerURL == "":
		return fmt.Errorf("workspace: site %s needs a network and the broker's URL", s.Name)
	}
	return s.checkTEE()
}
