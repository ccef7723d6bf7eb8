package api

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/policy"
	"github.com/eosc-siesta/siestad/internal/quarantine"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// Workspaces is what the API needs of *workspace.Service.
type Workspaces interface {
	Create(ctx context.Context, tx pgx.Tx, who audit.Actor, spec workspace.CreateSpec) (workspace.Workspace, workspace.Operation, audit.ID, error)
	Get(ctx context.Context, id string) (workspace.Workspace, error)
	List(ctx context.Context, f workspace.Filter) ([]workspace.Workspace, error)
	Delete(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (workspace.Workspace, workspace.Operation, audit.ID, error)
	Reboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (workspace.Workspace, workspace.Operation, audit.ID, error)
	AllowReboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, request string) (workspace.Workspace, workspace.Operation, audit.ID, error)
	Explain(ctx context.Context, id string) (workspace.Explanation, error)
	Operation(ctx context.Context, id string) (workspace.Operation, error)
	Operations(ctx context.Context, workspace string) ([]workspace.Operation, error)
	Wake()
}

// Broker is what the guests' door, and who publishes what a guest may be, need of *keybroker.Broker.
type Broker interface {
	Challenge(ctx context.Context, req door.ChallengeRequest, peer string) (door.Challenge, error)
	Grant(ctx context.Context, req door.GrantRequest, peer string) (door.Grant, error)
	Event(ctx context.Context, lease string, e door.Event, peer string) (door.EventAnswer, error)
	// Unreadable counts a request of either door that could not be parsed.
	Unreadable(peer string)
	// Armed is the guest that can have a workspace's key now.
	Armed(ctx context.Context, workspace string) (keybroker.Arm, error)
}

// Config of a Server. All fields without a default are required.
type Config struct {
	DB         *pgxpool.Pool
	Logger     *zap.Logger
	Log        *audit.Log
	Authz      *authz.Engine
	Issuers    []Issuer
	Workspaces Workspaces
	Permits    *permit.Service
	Images     *image.Service
	Broker     Broker
	Secrets    Secrets
	// Attestations serves stock clients, and tokens.
	Attestations Attestations
	Sites        []Site
	// Publisher signs reference values; the zero value signs none.
	Publisher Publisher
	// Policies, Decisions and Quarantines are what the broker judges by, what it judged, and what it is not to judge at all.
	Policies    *policy.Service
	Decisions   *keybroker.Archive
	Quarantines *quarantine.Service
	// CursorKey is the root of the keys of lists' cursors, and of what is kept of requests; every instance of an installation
	// has the same.
	CursorKey []byte
	// Ready says why requests cannot be served, nil if they can.
	Ready   func(ctx context.Context) error
	Metrics prometheus.Registerer
	// Now defaults to time.Now. Tokens are judged by it.
	Now func() time.Time
}

// Server answers HTTP requests. Make it with New; run Run beside its handlers.
type Server struct {
	cfg      Config
	tokens   *tokens
	spec     *openapi3.T
	routes   map[string]*route // by method and pattern
	refusals *refusals
	limiter  *limiter
	denials  *limiter // of looks
	changes  *limiter // of anything else
	sites    []*siteState
	metrics  *metrics

	uploads, exports *slots
	storing          chan struct{} // held by the one upload that is written into the database

	requestKey []byte // of requestHash
	cursors    cipher.AEAD
}

// New checks the configuration. It makes no call to the network or the database.
func New(cfg Config) (*Server, error) {
	if cfg.DB == nil || cfg.Logger == nil || cfg.Log == nil || cfg.Authz == nil || cfg.Workspaces == nil || cfg.Permits == nil ||
		cfg.Images == nil || cfg.Broker == nil || cfg.Secrets == nil || cfg.Attestations == nil || cfg.Ready == nil || cfg.Metrics == nil ||
		cfg.Policies == nil || cfg.Decisions == nil || cfg.Quarantines == nil {
		return nil, errors.New("making the API: a required part is missing")
	}
	if len(cfg.CursorKey) < 32 {
		return nil, errors.New("making the API: the cursor key has fewer than 32 bytes")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	requestKey, err := hkdf.Key(sha256.New, cfg.CursorKey, nil, "siesta/request/v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("making the API: %w", err)
	}
	cursors, err := newCursors(cfg.CursorKey)
	if err != nil {
		return nil, fmt.Errorf("making the API: %w", err)
	}
	tokens, err := newTokens(cfg.Issuers, cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("making the API: %w", err)
	}
	spec, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("reading the API's description: %w", err)
	}
	s := &Server{
		cfg: cfg, tokens: tokens, spec: spec, routes: routesOf(spec), refusals: newRefusals(), limiter: newLimiter(cfg.Now, ratePerSecond, rateBurst),
		denials: newLimiter(cfg.Now, denialsPerSecond, denialsBurst), changes: newLimiter(cfg.Now, changesPerSecond, changesBurst),
		metrics: newMetrics(cfg.Metrics), requestKey: requestKey, cursors: cursors, uploads: newSlots("upload", uploadsEach, uploadsAll),
		exports: newSlots("export", exportsEach, exportsAll), storing: make(chan struct{}, 1),
	}
	for _, site := range cfg.Sites {
		s.sites = append(s.sites, &siteState{Site: site})
	}
	return s, nil
}

// Run looks after the sites' health, writes aggregated refusals and drops what has expired, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.watchSites(ctx); return nil })
	g.Go(func() error { s.flushRefusals(ctx); return nil })
	g.Go(func() error { s.sweepKeys(ctx); return nil })
	return g.Wait()
}

// Handler serves the API: everything of openapi.yaml but the guests' door and the metrics.
func (s *Server) Handler() http.Handler {
	r := s.router()
	s.probes(r)
	r.Get("/v1/jwks", s.jwks)
	r.Group(func(r chi.Router) {
		r.Use(s.authenticate, s.limitRate, s.admit)
		r.Get("/v1/audit/log/*", s.tiles)
		handler := gen.NewStrictHandlerWithOptions(&handlers{s}, nil, gen.StrictHTTPServerOptions{
			RequestErrorHandlerFunc:  s.malformed,
			ResponseErrorHandlerFunc: s.fail,
		})
		gen.HandlerWithOptions(handler, gen.ChiServerOptions{BaseRouter: r, ErrorHandlerFunc: s.malformed})
	})
	return r
}

// Guests serves the guests' doors, the native one and /kbs/v0, on a listener of its own.
func (s *Server) Guests() http.Handler {
	r := s.router(s.collapse)
	r.Post("/v1/challenges", s.challenge)
	r.Post("/v1/grants", s.grant)
	r.Post("/v1/guests/{lease}/events", s.event)
	r.Post("/v1/attestations", s.attestation)
	r.Get("/v1/jwks", s.jwks)
	s.kbsRoutes(r)
	return r
}

// Probes serves /healthz and /readyz alone, for the metrics listener.
func (s *Server) Probes() http.Handler {
	r := s.router()
	s.probes(r)
	return r
}

func (s *Server) router(more ...func(http.Handler) http.Handler) chi.Router {
	r := chi.NewRouter()
	r.Use(s.observe)
	r.Use(more...)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		if len(more) > 0 && isKBS(r) {
			s.kbsElsewhere(w, r)
			return
		}
		s.fail(w, r, kindNotFound.because("The path is none of this API's."))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		if len(more) > 0 && isKBS(r) {
			s.kbsElsewhere(w, r)
			return
		}
		s.fail(w, r, kindMethod.because("The path has no such method."))
	})
	return r
}

type health struct {
	Status string `json:"status"`
}

func (s *Server) probes(r chi.Router) {
	r.Get("/healthz", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, health{"alive"})
	})
	r.Get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := s.cfg.Ready(ctx); err != nil {
			s.cfg.Logger.Warn("not ready", zap.Error(err))
			s.fail(w, r, kindNotReady.because("Something that is needed is missing."))
			return
		}
		writeJSON(w, http.StatusOK, health{"ready"})
	})
}

// handlers implements the generated strict interface, one file per resource.
type handlers struct{ *Server }

var _ gen.StrictServerInterface = (*handlers)(nil)
