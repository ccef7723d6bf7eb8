package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/policy"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
	"github.com/eosc-siesta/siestad/internal/quarantine"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

// rig is a server on a real database with a real audit log; issuer, workspaces and broker are the test's.
type rig struct {
	t          testing.TB
	db         *pgxpool.Pool
	issuer     *fakeIssuer
	server     *Server
	log        *audit.Log
	workspaces *fakeWorkspaces
	policies   *policy.Service
	broker     *fakeBroker
	store      *keyStore
	api, door  http.Handler
	router     routers.Router
	metrics    *prometheus.Registry
}

// start is when every test happens, for whatever is judged by a clock of this program; the database has its own.
var start = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// testClock stands at start until a test moves it. The zero value is ready.
type testClock struct{ offset atomic.Int64 }

func (c *testClock) now() time.Time          { return start.Add(time.Duration(c.offset.Load())) }
func (c *testClock) advance(d time.Duration) { c.offset.Add(int64(d)) }

func newRig(t testing.TB) *rig { return newRigWith(t, setup{}) }

func newRigWith(t testing.TB, s setup) *rig {
	t.Helper()
	r := &rig{t: t, db: pgtest.New(t), issuer: newFakeIssuer(t), metrics: prometheus.NewRegistry()}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	r.log, err = audit.New(t.Context(), audit.Config{DB: r.db, Origin: "test.example/log", Signer: key})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.log.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	rules, err := authz.New()
	must(t, err)
	real, store := newBroker(t, r.db, r.log, s)
	r.broker, r.store = &fakeBroker{Broker: real}, store
	r.workspaces = &fakeWorkspaces{log: r.log.Recorder, all: map[string]workspace.Workspace{}, ops: map[string]workspace.Operation{}}
	r.policies = newPolicies(r.db, r.log.Recorder)
	permits := permit.New(r.db, r.log.Recorder, permit.Site{Name: "ifca", Hosts: []string{"node-1"}})
	r.server, err = New(Config{
		DB: r.db, Logger: zap.NewNop(), Log: r.log, Authz: rules, Workspaces: r.workspaces, Permits: permits, Images: image.New(r.db, r.log.Recorder, s.endorsers...),
		Publisher: s.publisher,
		Policies:  r.policies, Decisions: r.policies.Archive, Quarantines: quarantine.New(r.db, r.log.Recorder, permits, hostOfTest),
		Broker: r.broker, Secrets: r.broker, Attestations: r.broker, CursorKey: make([]byte, 32), Ready: func(context.Context) error { return nil }, Metrics: r.metrics,
		Issuers: []Issuer{r.issuer.config()}, Now: (&testClock{}).now,
		Sites: []Site{{
			Name: "ifca", TEE: "sev-snp", Flavors: []string{"m1"},
			Preflight: func(context.Context) (openstack.Report, error) {
				return openstack.Report{Site: "ifca", Checks: []openstack.PreflightCheck{{Name: "flavors", OK: true, Detail: "all there"}}}, nil
			},
			Capacity: func(context.Context) (openstack.Capacity, error) { return openstack.Capacity{}, nil },
		}},
	})
	must(t, err)
	r.api, r.door = r.server.Handler(), r.server.Guests()
	r.router = specRouter(t)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// specRouter finds the operation of openapi.yaml itself, the file people read, not of the generated copy.
func specRouter(t testing.TB) routers.Router {
	t.Helper()
	spec, err := openapi3.NewLoader().LoadFromFile("../../openapi.yaml")
	must(t, err)
	router, err := gorillamux.NewRouter(spec)
	must(t, err)
	return router
}

// person is who sends a request.
type person struct {
	token   string
	subject string
}

func (r *rig) person(name string, roles ...string) person {
	return person{r.issuer.token(r.t, r.issuer.claims(name, roles...)), r.issuer.url + "|" + name}
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

func (a answer) problem(t testing.TB) gen.Problem {
	t.Helper()
	var p gen.Problem
	a.into(t, &p)
	return p
}

type option func(*http.Request)

func with(name, value string) option { return func(r *http.Request) { r.Header.Set(name, value) } }

// do sends a request, with a fresh Idempotency-Key on a POST and If-Match: * otherwise, and holds every answer against
// openapi.yaml.
func (r *rig) do(who person, method, path string, body any, options ...option) answer {
	r.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		must(r.t, err)
		reader = bytes.NewReader(data)
	}
	req := httptest.NewRequestWithContext(context.Background(), method, "http://siestad.test"+path, reader)
	if who.token != "" {
		req.Header.Set("Authorization", "Bearer "+who.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch method {
	case http.MethodPost:
		req.Header.Set("Idempotency-Key", ulid.Make().String())
	case http.MethodPut, http.MethodDelete:
		req.Header.Set("If-Match", "*")
	}
	for _, o := range options {
		o(req)
	}
	handler := r.api
	if strings.HasPrefix(path, "/v1/challenges") || strings.HasPrefix(path, "/v1/grants") || strings.HasPrefix(path, "/v1/guests") || strings.HasPrefix(path, "/v1/attestations") || strings.HasPrefix(path, "/kbs/v0") {
		handler = r.door
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, req)
	a := answer{w.Code, w.Header(), w.Body.Bytes()}
	r.conforms(req, a)
	return a
}

func (r *rig) conforms(req *http.Request, a answer) {
	r.t.Helper()
	if a.header.Get("X-Request-Id") == "" {
		r.t.Errorf("%s %s: no X-Request-Id", req.Method, req.URL.Path)
	}
	route, params, err := r.router.FindRoute(req)
	if err != nil {
		if a.status != 404 && a.status != 405 && !strings.HasPrefix(req.URL.Path, "/v1/audit/log/") {
			r.t.Errorf("%s %s is not in openapi.yaml and answers %d", req.Method, req.URL.Path, a.status)
		}
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	if err != nil {
		r.t.Errorf("%s %s: the answer %d is not what openapi.yaml says: %v\n%s", req.Method, req.URL.Path, a.status, err, a.body)
	}
}

// want sends and expects a status.
func (r *rig) want(status int, who person, method, path string, body any, options ...option) answer {
	r.t.Helper()
	a := r.do(who, method, path, body, options...)
	if a.status != status {
		r.t.Fatalf("%s %s: got %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// audited counts the entries with this action, outcome and code.
func (r *rig) audited(action string, outcome audit.Outcome, code string) int {
	r.t.Helper()
	list, err := r.log.List(context.Background(), audit.Filter{Action: action, Outcome: outcome, Limit: 1000})
	must(r.t, err)
	return len(slices.DeleteFunc(list, func(e audit.Record) bool { return e.Code != code }))
}

const until = "2099-01-01T00:00:00Z"

// project makes an active project with these members.
func (r *rig) project(id string, members ...string) {
	r.t.Helper()
	r.want(201, r.person("op", "operator"), "POST", "/v1/projects", map[string]any{"id": id, "name": id, "valid_until": until, "members": members})
}

// fakeIssuer is an OpenID issuer that signs what the test wants.
type fakeIssuer struct {
	*httptest.Server
	url     string
	signers []signer
	mu      sync.Mutex
	fetches int
	down    bool
	broken  bool   // its keys alone
	shown   string // instead of the signers' keys
}

type signer struct {
	kid string
	alg jose.SignatureAlgorithm
	key any
}

func newFakeIssuer(t testing.TB) *fakeIssuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	f := &fakeIssuer{signers: []signer{{"k1", jose.ES256, key}}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	f.url = f.URL
	t.Cleanup(f.Close)
	return f
}

func (f *fakeIssuer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeIssuer) fetched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fetches
}

func (f *fakeIssuer) config() Issuer {
	return Issuer{URL: f.url, Audience: "siestad", Clients: []string{"siesta-cli", "portal"}, HTTP: f.Client()}
}

func (f *fakeIssuer) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	if r.URL.Path == "/.well-known/openid-configuration" {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["none","HS256","ES256"]}`, f.url, f.url+"/keys")
		return
	}
	f.fetches++
	if f.broken {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	if f.shown != "" {
		fmt.Fprint(w, f.shown)
		return
	}
	var set jose.JSONWebKeySet
	for _, s := range f.signers {
		public := s.key
		if private, ok := s.key.(*ecdsa.PrivateKey); ok {
			public = private.Public()
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: public, KeyID: s.kid, Algorithm: string(s.alg), Use: "sig"})
	}
	_ = json.NewEncoder(w).Encode(set)
}

func (f *fakeIssuer) claims(sub string, roles ...string) map[string]any {
	return map[string]any{
		"iss": f.url, "sub": sub, "typ": "Bearer", "azp": "siesta-cli", "aud": []string{"account", "siestad"},
		"iat": start.Unix() - 5, "exp": start.Unix() + 300, "preferred_username": sub, "jti": ulid.Make().String(),
		"resource_access": map[string]any{"siestad": map[string]any{"roles": roles}},
		"realm_access":    map[string]any{"roles": []string{"operator", "auditor"}},
	}
}

func (f *fakeIssuer) token(t testing.TB, claims map[string]any) string {
	t.Helper()
	return signed(t, f.signers[0], map[string]any{"typ": "JWT"}, claims)
}

func signed(t testing.TB, s signer, header map[string]any, claims any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	js, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, options)
	must(t, err)
	payload, ok := claims.([]byte)
	if !ok {
		payload, err = json.Marshal(claims)
		must(t, err)
	}
	jws, err := js.Sign(payload)
	must(t, err)
	token, err := jws.CompactSerialize()
	must(t, err)
	return token
}

// fakeWorkspaces keeps workspaces in memory and writes the audit entry that the real service writes.
type fakeWorkspaces struct {
	log   *audit.Recorder
	mu    sync.Mutex
	all   map[string]workspace.Workspace
	ops   map[string]workspace.Operation
	fail  error
	block chan struct{} // Create waits for it
	began chan struct{} // Create has begun
	made  int
}

func (f *fakeWorkspaces) Create(ctx context.Context, tx pgx.Tx, who audit.Actor, spec workspace.CreateSpec) (workspace.Workspace, workspace.Operation, audit.ID, error) {
	if f.block != nil {
		close(f.began)
		<-f.block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return workspace.Workspace{}, workspace.Operation{}, 0, f.fail
	}
	f.made++
	w := workspace.Workspace{
		ID: strings.ToLower(ulid.Make().String()), Name: spec.Name, Project: spec.Project, Dataset: spec.Dataset, Image: spec.Image,
		Site: spec.Site, Flavor: spec.Flavor, DataGiB: spec.DataGiB, Owner: who.Subject, State: workspace.Creating, Generation: 1,
		CreatedAt: start, UpdatedAt: start,
	}
	f.all[w.ID] = w
	return f.start(ctx, tx, who, w, "create")
}

func (f *fakeWorkspaces) start(ctx context.Context, tx pgx.Tx, who audit.Actor, w workspace.Workspace, kind string) (workspace.Workspace, workspace.Operation, audit.ID, error) {
	began := start
	op := workspace.Operation{
		ID: strings.ToLower(ulid.Make().String()), Kind: kind, Workspace: w.ID, Project: w.Project, State: workspace.Running, CreatedAt: start,
		Steps: []workspace.OperationStep{{Name: "key", State: "running", StartedAt: &began}, {Name: "server", State: "pending"}},
	}
	f.ops[op.ID] = op
	id, err := f.log.Append(ctx, tx, audit.Entry{Actor: who, Action: "workspace." + kind, Object: "workspace/" + w.ID, Project: w.Project, Outcome: audit.Success})
	return w, op, id, err
}

func (f *fakeWorkspaces) Get(_ context.Context, id string) (workspace.Workspace, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w, ok := f.all[id]; ok {
		return w, nil
	}
	return workspace.Workspace{}, workspace.ErrNotFound
}

func (f *fakeWorkspaces) List(_ context.Context, filter workspace.Filter) ([]workspace.Workspace, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []workspace.Workspace
	for _, w := range f.all {
		if w.ID > filter.After && (filter.Projects == nil || slices.Contains(filter.Projects, w.Project)) {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b workspace.Workspace) int { return strings.Compare(a.ID, b.ID) })
	return list[:min(len(list), filter.Limit)], nil
}

func (f *fakeWorkspaces) again(ctx context.Context, tx pgx.Tx, who audit.Actor, id, kind string) (workspace.Workspace, workspace.Operation, audit.ID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return workspace.Workspace{}, workspace.Operation{}, 0, f.fail
	}
	return f.start(ctx, tx, who, f.all[id], kind)
}

func (f *fakeWorkspaces) Delete(ctx context.Context, tx pgx.Tx, who audit.Actor, id, _ string) (workspace.Workspace, workspace.Operation, audit.ID, error) {
	return f.again(ctx, tx, who, id, "delete")
}

func (f *fakeWorkspaces) Reboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, _ string) (workspace.Workspace, workspace.Operation, audit.ID, error) {
	return f.again(ctx, tx, who, id, "reboot")
}

func (f *fakeWorkspaces) AllowReboot(ctx context.Context, tx pgx.Tx, who audit.Actor, id, _ string) (workspace.Workspace, workspace.Operation, audit.ID, error) {
	return f.again(ctx, tx, who, id, "reboot")
}

func (f *fakeWorkspaces) Explain(ctx context.Context, id string) (workspace.Explanation, error) {
	w, err := f.Get(ctx, id)
	return workspace.Explanation{Workspace: w, Next: "Wait.", Facts: []permit.NamedFact{{Name: "permit", Fact: permit.Fact{Why: "none", Fix: "the custodian"}}}}, err
}

func (f *fakeWorkspaces) Operation(_ context.Context, id string) (workspace.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o, ok := f.ops[id]; ok {
		return o, nil
	}
	return workspace.Operation{}, workspace.ErrNotFound
}

func (f *fakeWorkspaces) Operations(_ context.Context, id string) ([]workspace.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []workspace.Operation
	for _, o := range f.ops {
		if o.Workspace == id {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b workspace.Operation) int { return strings.Compare(b.ID, a.ID) })
	return list, nil
}

func (f *fakeWorkspaces) Wake() {}

// fakeBroker answers what the test says, or, with native, what the real one does.
type fakeBroker struct {
	*keybroker.Broker // a real one, for everything but the native door
	native            bool
	unreadable        atomic.Int64 // requests that the API could not parse
	err               error
}

func (b *fakeBroker) Unreadable(peer string) {
	b.unreadable.Add(1)
	b.Broker.Unreadable(peer)
}

func (b *fakeBroker) Challenge(ctx context.Context, req door.ChallengeRequest, peer string) (door.Challenge, error) {
	if b.native {
		return b.Broker.Challenge(ctx, req, peer)
	}
	return door.Challenge{Challenge: "c1", Nonce: make([]byte, 32), ExpiresAt: "2026-11-23T00:00:00Z", BrokerKey: make([]byte, 32), Signature: make([]byte, 64)}, b.err
}

func (b *fakeBroker) Grant(ctx context.Context, req door.GrantRequest, peer string) (door.Grant, error) {
	if b.native {
		return b.Broker.Grant(ctx, req, peer)
	}
	return door.Grant{Signature: make([]byte, 64)}, b.err
}

func (b *fakeBroker) Event(ctx context.Context, lease string, e door.Event, peer string) (door.EventAnswer, error) {
	if b.native {
		return b.Broker.Event(ctx, lease, e, peer)
	}
	if lease != "lease1" {
		return door.EventAnswer{}, errors.New("unexpected lease")
	}
	return door.EventAnswer{Seq: e.Seq}, b.err
}

func serve(h http.Handler, method, path string) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), method, path, nil))
	return w.Code
}
