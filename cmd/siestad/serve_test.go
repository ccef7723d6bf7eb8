package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// TestMain lets the scripts run siestad as a program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"siestad": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		env.Setenv("EMPTY_DB", pgtest.Empty(t))
		return nil
	}})
}

// freeAddress finds a loopback address that is free now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// started loads a good configuration with this database, and what else is replaced.
func started(t *testing.T, dsn string, replace ...string) *Config {
	t.Helper()
	c, err := loadConfig(writeConfig(t, append(replace, "host=/run/postgresql dbname=siesta", dsn)...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func get(t *testing.T, url string, header ...string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// TestServe: the daemon starts although its issuer and its cloud are away, answers on its three listeners, and stops
// when it is told to.
func TestServe(t *testing.T) {
	api, guests, metrics := freeAddress(t), freeAddress(t), freeAddress(t)
	away := "http://" + freeAddress(t)
	dsn := pgtest.DSN(t)
	c := started(t, dsn, "127.0.0.1:8080", api, "guests: 127.0.0.1:8081", "guests: "+guests+"\n  metrics: "+metrics,
		"https://id.example.org/realms/siesta", away)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, c) }()
	await(t, "http://"+api+"/readyz", ended)

	// A token of an issuer that cannot be asked is nobody's fault: 503, and the service stays ready.
	token := `eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.` + encode(fmt.Sprintf(`{"iss":%q}`, away)) + `.` + strings.Repeat("A", 86)
	for url, want := range map[string]struct {
		status int
		says   string
	}{
		"http://" + api + "/v1/me":         {503, "issuer-unavailable"},
		"http://" + api + "/healthz":       {200, "alive"},
		"http://" + guests + "/healthz":    {404, "not-found"},
		"http://" + guests + "/v1/me":      {404, "not-found"},
		"http://" + metrics + "/metrics":   {200, "siestad_http_requests_total"},
		"http://" + metrics + "/readyz":    {200, "ready"},
		"http://" + api + "/v1/challenges": {404, "not-found"},
	} {
		status, body, err := get(t, url, "Authorization", "Bearer "+token)
		if err != nil || status != want.status || !strings.Contains(body, want.says) {
			t.Errorf("%s: got %d %v %.200s, want %d %s", url, status, err, body, want.status, want.says)
		}
	}

	// What was refused in the last minute is counted in an entry of which the stopping daemon makes sure that it is signed.
	if status, _, err := get(t, "http://"+api+"/v1/me", "Authorization", "Bearer x.y.z"); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a token that is none: %d %v", status, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+guests+"/v1/challenges", strings.NewReader("no request"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // what stands there is not of interest
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a guest's request that is none: %d", resp.StatusCode)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopping: %v", err)
	}
	db, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var signed, waiting int
	if err := db.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM audit_entry WHERE action IN ('token.verify', 'guest.refuse_many')), (SELECT count(*) FROM audit_inbox)`).Scan(&signed, &waiting); err != nil || signed != 2 || waiting != 0 {
		t.Errorf("of the last refusals, %d entries are signed; %d wait: %v", signed, waiting, err)
	}
}

// await returns once url answers 200. It ends early when the daemon does.
func await(t *testing.T, url string, ended <-chan error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if status, _, err := get(t, url); err == nil && status == http.StatusOK {
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("the daemon ended: %v", err)
		case <-deadline.Done():
			t.Fatal("the daemon did not become ready")
		case <-tick.C:
		}
	}
}

// TestStoppingCutsOffWhatTakesLonger: that is no fault, and when it stops no handler runs on.
func TestStoppingCutsOffWhatTakesLonger(t *testing.T) {
	address := freeAddress(t)
	began, gone := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	export := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(began)
		<-r.Context().Done()
		<-gone // the caller is told before the handler has ended
		ended.Store(true)
	})
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() {
		stopped <- listen(ctx, []listener{{"api", address, TLSConfig{}, export}}, time.Millisecond, zap.NewNop())
	}()
	go func() {
		<-began
		stop()
	}()
	dialed := dial(t, address)
	fmt.Fprintf(dialed, "GET / HTTP/1.1\r\nHost: siestad.test\r\n\r\n")
	if _, err := io.ReadAll(dialed); err != nil { // until the connection ends
		t.Error(err)
	}
	close(gone)
	if err := <-stopped; err != nil || !ended.Load() {
		t.Errorf("stopped with %v; the handler has ended: %v", err, ended.Load())
	}
}

// dial connects to an address as soon as somebody listens there.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// TestServeRefuses: each start that cannot go well ends with what is wrong and what to do, and changes nothing.
func TestServeRefuses(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	empty := pgtest.Empty(t)
	for name, row := range map[string]struct {
		config *Config
		says   []string
	}{
		"Postgres away": {started(t, "host=127.0.0.1 port=1 dbname=x user=x connect_timeout=2"), []string{"next: see that Postgres runs"}},
		"no schema":     {started(t, empty), []string{"siestad migrate"}},
		"address taken": {
			started(t, pgtest.DSN(t), "127.0.0.1:8080", freeAddress(t), "127.0.0.1:8081", taken.Addr().String()),
			[]string{"listening for guests", "next: free the address"},
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := serve(ctx, row.config)
		cancel()
		if err == nil || errors.Is(err, context.DeadlineExceeded) && name != "Postgres away" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, part := range row.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v says nothing of %q", name, err, part)
			}
		}
	}
	db, err := postgres.Open(t.Context(), empty)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var tables int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("serve made %d tables in an empty database: %v", tables, err)
	}
}

// TestWhatOnlyReadsTakesNothing: listing and exporting what vendors say needs no log key, and leaves the log's tables alone.
func TestWhatOnlyReadsTakesNothing(t *testing.T) {
	dsn := pgtest.DSN(t)
	config := writeConfig(t, "host=/run/postgresql dbname=siesta", dsn)
	db, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	given := func() (ids int64) {
		t.Helper()
		if err := db.QueryRow(t.Context(), `SELECT sum(until) FROM audit_program`).Scan(&ids); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	before := given()
	file := filepath.Join(t.TempDir(), "bundle")
	for _, args := range [][]string{{"list"}, {"export", file}} {
		command := collateralCommand(io.Discard)
		command.SetArgs(append(args, "--config", config))
		if err := command.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
		if given() != before {
			t.Errorf("%s: it was given ids", args[0])
		}
	}
}

func TestConfigPathIsNamed(t *testing.T) {
	_, err := loadConfig(filepath.Join(t.TempDir(), "absent.yaml"))
	if err == nil || !strings.Contains(err.Error(), "absent.yaml") {
		t.Errorf("got %v", err)
	}
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
