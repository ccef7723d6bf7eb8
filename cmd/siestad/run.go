package main

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/eosc-siesta/siestad/internal/api"
	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/quarantine"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// drain is how long requests under way may take once the daemon has been told to stop. Uploads and exports may take longer,
// and are cut off.
const drain = 10 * time.Second

// serve puts the parts together, from the database up, and runs them until ctx ends.
func serve(ctx context.Context, c *Config) error {
	logger, err := newLogger(c.LogLevel)
	if err != nil {
		return err
	}
	defer func() { _ = logger.Sync() }()
	collectSeldom()
	if banner != "" {
		logger.Warn("development build: it can trust simulated hardware")
	}

	dsn, err := c.Database.dsn()
	if err != nil {
		return err
	}
	db, err := postgres.Open(ctx, dsn)
	if err != nil {
		return fmt.Errorf("%w\n  next: see that Postgres runs and that database.connection is right", err)
	}
	defer db.Close()
	if err := postgres.CheckSchema(ctx, db); err != nil {
		return err
	}

	logKey, err := readKey(c.Log.KeyFile)
	if err != nil {
		return err
	}
	log, err := audit.New(ctx, audit.Config{DB: db, Origin: c.Log.Origin, Signer: logKey, LastSeen: c.Log.LastSeenFile, Logger: logger.Named("audit")})
	if err != nil {
		return err
	}
	endorsers, err := endorserKeys(c.ReferenceValues.EndorserKeys)
	if err != nil {
		return err
	}
	publishes, err := publisher(c)
	if err != nil {
		return err
	}
	permits, images := permit.New(db, log.Recorder, freezable(c)...).WithIssuers(issuerURLs(c)...), image.New(db, log.Recorder, endorsers...)
	clouds, err := sites(c)
	if err != nil {
		return err
	}

	brokerKey, err := readKey(c.Broker.KeyFile)
	if err != nil {
		return err
	}
	keyring, err := openKeyring(c)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	statements, err := collateralService(c, db, log.Recorder, logger.Named("collateral"), metrics)
	if err != nil {
		return err
	}
	if err := statements.Load(ctx); err != nil {
		return err
	}
	chips, err := registered(c)
	if err != nil {
		return err
	}
	if err := statements.Register(ctx, chips...); err != nil {
		return err
	}
	inForce, err := policies(c, db, log.Recorder, clouds)
	if err != nil {
		return err
	}
	tokens, err := tokenSigner(c.Tokens)
	if err != nil {
		return err
	}
	broker, err := keybroker.New(keybroker.Config{
		DB: db, Log: log, Facts: permits, Stores: workspace.KeyStores(clouds), Keyring: keyring,
		Verifier: &attest.Verifier{}, Collateral: known(c, statements), Key: brokerKey, Tokens: tokens, Installation: c.Installation,
		Lease: c.Broker.Lease, Logger: logger.Named("broker"), Policies: inForce, Host: inForce.Host,
	})
	if err != nil {
		return err
	}

	runner, err := flow.New(flow.Config{DB: db, Logger: logger.Named("flow"), Trace: workspace.Trace, Lease: c.flowLease()})
	if err != nil {
		return err
	}
	workspaces, err := workspace.New(workspace.Config{
		DB: db, Audit: log.Recorder, Logger: logger.Named("workspace"), Flow: runner, Broker: broker, Permit: permits, Images: images,
		Installation: c.Installation, BrokerKey: door.KeyHash(brokerKey.Public().(ed25519.PublicKey)), Sites: clouds,
	})
	if err != nil {
		return err
	}

	rules, err := authz.New()
	if err != nil {
		return err
	}
	cursorKey, err := hkdf.Key(sha256.New, brokerKey.Seed(), nil, "siesta/cursor/v1", 32)
	if err != nil {
		return fmt.Errorf("deriving the key of cursors: %w", err)
	}
	server, err := api.New(api.Config{
		DB: db, Logger: logger.Named("api"), Log: log, Authz: rules, Issuers: issuers(c), Workspaces: workspaces,
		Permits: permits, Images: images, Broker: broker, Secrets: broker, Attestations: broker, Sites: apiSites(clouds), CursorKey: cursorKey, Metrics: metrics,
		Policies: inForce, Decisions: inForce.Archive, Quarantines: quarantine.New(db, log.Recorder, permits, inForce.Host),
		Publisher: publishes,
		Ready:     func(ctx context.Context) error { return postgres.CheckSchema(ctx, db) },
	})
	if err != nil {
		return err
	}

	listeners := []listener{
		{"api", c.Listen.API, c.Listen.TLS, server.Handler()},
		{"guests", c.Listen.Guests, c.Listen.GuestsTLS, server.Guests()},
	}
	if c.Listen.Metrics != "" {
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		mux.Handle("/", server.Probes())
		listeners = append(listeners, listener{"metrics", c.Listen.Metrics, TLSConfig{}, mux})
	}
	// The workers outlive the listeners: a request that is being answered may wait for the audit log's next checkpoint. The log
	// outlives the workers: what they record at their end is signed. If it fails, all of them end.
	signing, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	signer, signing := errgroup.WithContext(signing)
	signer.Go(func() error { return log.Run(signing) })
	work, stopWork := context.WithCancel(signing)
	defer stopWork()
	workers, work := errgroup.WithContext(work)
	for _, run := range []func(context.Context) error{broker.Run, runner.Run, workspaces.Run, server.Run, statements.Run} {
		workers.Go(func() error { return run(work) })
	}
	front, stopFront := context.WithCancel(ctx)
	defer stopFront()
	context.AfterFunc(work, stopFront) // a worker that fails takes the listeners down with it
	served := listen(front, listeners, drain, logger)
	stopWork()
	worked := workers.Wait()
	stopLog()
	for _, err := range []error{worked, signer.Wait()} {
		if err != nil && !errors.Is(err, context.Canceled) {
			served = errors.Join(served, err)
		}
	}
	return served
}

// collectSeldom spares the collector's work, unless whoever started the process has said how it is to be done.
func collectSeldom() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(keybroker.Collection)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(keybroker.CollectionLimit)
	}
}

func newLogger(level string) (*zap.Logger, error) {
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil           // every line is written: an operator may have to find one request
	cfg.DisableStacktrace = true // an error says what was being done; a panic brings its own stack
	if level != "" {
		parsed, err := zap.ParseAtomicLevel(level)
		if err != nil {
			return nil, fmt.Errorf("log_level: %w", err)
		}
		cfg.Level = parsed
	}
	logger, err := cfg.Build()
	if err != nil {
		return nil, fmt.Errorf("making the logger: %w", err)
	}
	return logger, nil
}

func issuerURLs(c *Config) (urls []string) {
	for _, i := range c.Issuers {
		urls = append(urls, i.URL)
	}
	return urls
}

func issuers(c *Config) []api.Issuer {
	var list []api.Issuer
	for _, i := range c.Issuers {
		list = append(list, api.Issuer{URL: i.URL, Audience: i.Audience, Clients: i.Clients, HTTP: &http.Client{Timeout: 10 * time.Second}})
	}
	return list
}

type listener struct {
	name, address string
	tls           TLSConfig
	handler       http.Handler
}

// listen serves all listeners until ctx ends or one fails, then lets the requests under way finish, cuts off what takes
// longer than drain, and returns when no handler runs any more: they need the workers and the log. All addresses are taken
// before the first request is answered, so a daemon that cannot serve guests never looks healthy to people.
func listen(ctx context.Context, listeners []listener, drain time.Duration, logger *zap.Logger) error {
	sockets := make([]net.Listener, len(listeners))
	for i, l := range listeners {
		socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.address)
		if err != nil {
			for _, open := range sockets[:i] {
				_ = open.Close() // nothing was served on it
			}
			return fmt.Errorf("listening for %s: %w\n  next: free the address, or choose another in listen.%s", l.name, err, l.name)
		}
		sockets[i] = socket
	}
	// Every handler holds it shared. Once it is taken, none runs and none begins: Close does not wait for them.
	var running sync.RWMutex
	defer running.Lock()
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range listeners {
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.RLock()
			defer running.RUnlock()
			l.handler.ServeHTTP(w, r)
		})
		server := &http.Server{
			Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
			ErrorLog: zap.NewStdLog(logger.Named("http")),
		}
		logger.Info("listening", zap.String("listener", l.name), zap.Stringer("address", sockets[i].Addr()))
		g.Go(func() error {
			var err error
			if l.tls.Certificate != "" {
				err = server.ServeTLS(sockets[i], l.tls.Certificate, l.tls.Key)
			} else {
				err = server.Serve(sockets[i])
			}
			if !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving %s: %w", l.name, err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			err := server.Shutdown(late)
			if errors.Is(err, context.DeadlineExceeded) {
				logger.Info("requests are cut off", zap.String("listener", l.name))
				_ = server.Close() // its listener is closed already
				return nil
			}
			return err
		})
	}
	return g.Wait()
}
