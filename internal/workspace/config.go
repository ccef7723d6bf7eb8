package workspace

import (
	"context"
	"io"
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

// TEE says what protects the guests of a site.
type TEE string

// Simulated sites exist in development builds only.
const (
	SEVSNP       TEE = "sev-snp"
	SimulatedTEE TEE = "simulated"
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
	// VCPUSigs and GuestFeatures are what the site's hosts may give a guest: every pair is one acceptable measurement.
	VCPUSigs      []uint32
	GuestFeatures []uint64
	// Policy is what evidence from the site must meet, but for the measurement, which each workspace has of its own.
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
	Logger       *zap.Logger
	Flow         *flow.Runner
	Broker       *keybroker.Broker
	Permit       Facts
	Images       Images
	Installation string // eight characters [a-z0-9]
	BrokerKey    string // siesta.kb: door.KeyHash of the broker's public key
	Sites        []Site
	Times        Times
}

// Times are how long things may take. Zero fields get the defaults named.
type Times struct {
	Boot     time.Duration // from the server's creation to ACTIVE, waiting for capacity included: 15 min
	Attest   time.Duration // from ACTIVE to the guest's evidence, and from there to each next stage: 10 min
	Volume   time.Duration // until a volume is available: 10 min
	Stop     time.Duration // until a server that was asked to stop is off: 10 min
	Delete   time.Duration // until the cloud has let go of a resource: 1 h
	SweepGap time.Duration // between the two sweeps at the end of a deletion: 10 s
	Watch    time.Duration // between two looks at a ready workspace's server: 1 min
}

// Service creates, reboots, deletes and explains workspaces.
type Service struct {
	cfg   Config
	sites map[string]*Site
}

// New checks the configuration and registers the flows with the runner.
func New(cfg Config) (*Service, error) {
	return &Service{cfg: cfg}, nil
}

// KeyStores gives the broker the key managers of the sites: the keybroker's Stores over openstack.
func KeyStores(sites []Site) keybroker.Stores { return nil }

var _ audit.Actor
