package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	fetchFloor   = 10 * time.Second // between two looks at an issuer, whatever the tokens say
	fetchTimeout = 5 * time.Second
	maxKeySet    = 1 << 20
)

// errIssuerAway: the keys of a token's issuer were never fetched and cannot be now.
var errIssuerAway = errors.New("the issuer does not answer")

// keySet is the signing keys of one issuer. The issuer is asked only when a token of it comes, so its outage delays
// nothing else; it is asked at most once in fetchFloor, so nobody can make us hammer it with unknown key ids; and keys
// once seen are kept while it does not answer.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	flight singleflight.Group

	mu      sync.Mutex
	uri     string // of the keys, from discovery
	keys    []jose.JSONWebKey
	fetched time.Time // last attempt, good or bad
}

func newKeySet(issuer string, client *http.Client, now func() time.Time) *keySet {
	if client == nil {
		client = &http.Client{}
	}
	own := *client
	own.Timeout = fetchTimeout
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Transport = bounded{own.Transport}
	return &keySet{issuer: issuer, client: &own, now: now}
}

// key returns the issuer's key of this id, fetching anew when it is unknown. nil means that there is none.
func (k *keySet) key(ctx context.Context, kid string) (*jose.JSONWebKey, error) {
	if key, _ := k.known(kid); key != nil {
		return key, nil
	}
	// The fetch serves everybody who waits for it, so it does not end with this caller's request.
	fetch := context.WithoutCancel(ctx)
	done := k.flight.DoChan("", func() (any, error) { return nil, k.refresh(fetch) })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-done:
	}
	key, any := k.known(kid)
	if key == nil && !any {
		return nil, errIssuerAway
	}
	return key, nil
}

func (k *keySet) known(kid string) (key *jose.JSONWebKey, any bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.keys {
		if k.keys[i].KeyID == kid {
			return &k.keys[i], true
		}
	}
	return nil, len(k.keys) > 0
}

func (k *keySet) refresh(ctx context.Context) error {
	k.mu.Lock()
	now, uri := k.now(), k.uri
	if !k.fetched.IsZero() && now.Sub(k.fetched) < fetchFloor {
		k.mu.Unlock()
		return nil
	}
	k.fetched = now
	k.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if uri == "" {
		// NewProvider compares the issuer byte by byte with what the document says of itself.
		provider, err := oidc.NewProvider(oidc.ClientContext(ctx, k.client), k.issuer)
		if err != nil {
			return fmt.Errorf("reading the discovery document of %s: %w", k.issuer, err)
		}
		var doc struct {
			URI string `json:"jwks_uri"`
		}
		if err := provider.Claims(&doc); err != nil || doc.URI == "" {
			return fmt.Errorf("reading the discovery document of %s: no jwks_uri", k.issuer)
		}
		uri = doc.URI
	}
	keys, err := k.fetch(ctx, uri)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uri, k.keys = uri, keys
	return nil
}

func (k *keySet) fetch(ctx context.Context, uri string) ([]jose.JSONWebKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching the keys of %s: %w", k.issuer, err)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching the keys of %s: %w", k.issuer, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching the keys of %s: status %d: %w", k.issuer, resp.StatusCode, err)
	}
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, fmt.Errorf("reading the keys of %s: %w", k.issuer, err)
	}
	var keys []jose.JSONWebKey
	for _, r := range raw.Keys {
		var key jose.JSONWebKey
		// One key of a kind that is not known here must not hide the others.
		if json.Unmarshal(r, &key) == nil && key.Valid() && key.IsPublic() && key.KeyID != "" && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("reading the keys of %s: none that signs", k.issuer)
	}
	return keys, nil
}

// bounded cuts off every answer at maxKeySet.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxKeySet), resp.Body}
	}
	return resp, err
}
