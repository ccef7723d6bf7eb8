package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
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

	// A key that the issuer has withdrawn is good for keysFresh at most, and for keysKept while the issuer does not answer.
	keysFresh = 5 * time.Minute
	keysRetry = time.Minute // between two looks for newer keys while the known ones are kept
	keysKept  = time.Hour
)

// errIssuerAway: the issuer cannot be asked, and its keys were never fetched or too long ago.
var errIssuerAway = errors.New("the issuer does not answer")

// keySet is the signing keys of one issuer. The issuer is asked only when a token of it comes, so its outage delays
// nothing else; it is asked at most once in fetchFloor, so nobody can make us hammer it with unknown key ids; and keys
// once seen are kept, for a while, when it does not answer.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	flight singleflight.Group

	mu      sync.Mutex
	uri     string // of the keys, from discovery
	keys    []jose.JSONWebKey
	round   int       // counts the sets that differed, from 1
	good    time.Time // when keys was asked for
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

// key returns the issuer's key of this id, and the number of the set that it is of, fetching anew when it is unknown. nil
// means that there is none.
func (k *keySet) key(ctx context.Context, kid string) (*jose.JSONWebKey, int, error) {
	if _, err := k.current(ctx); err != nil {
		return nil, 0, err
	}
	key, round := k.known(kid)
	if key == nil {
		if err := k.fetchOnce(ctx); err != nil {
			return nil, 0, err
		}
		key, round = k.known(kid)
	}
	return key, round, nil
}

// current returns the number of the set of keys that counts now, fetching anew when it is due. What was verified with a
// key of an earlier set has to be verified again.
func (k *keySet) current(ctx context.Context) (round int, err error) {
	if k.due() {
		if err := k.fetchOnce(ctx); err != nil {
			return 0, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.round == 0 || k.now().Sub(k.good) >= keysKept {
		return 0, errIssuerAway
	}
	return k.round, nil
}

func (k *keySet) due() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	age := now.Sub(k.good)
	return k.round == 0 || age >= keysKept || age >= keysFresh && now.Sub(k.fetched) >= keysRetry
}

// fetchOnce serves everybody who waits for it, so it does not end with this caller's request.
func (k *keySet) fetchOnce(ctx context.Context) error {
	fetch := context.WithoutCancel(ctx)
	done := k.flight.DoChan("", func() (any, error) { return nil, k.refresh(fetch) })
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done: // what it could not fetch is missing, or old: the caller sees
		return nil
	}
}

func (k *keySet) known(kid string) (*jose.JSONWebKey, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.keys {
		if k.keys[i].KeyID == kid {
			return &k.keys[i], k.round
		}
	}
	return nil, k.round
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
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.uri = "" // they may have moved
		return err
	}
	if k.round == 0 || !reflect.DeepEqual(keys, k.keys) {
		k.round++
	}
	k.uri, k.keys, k.good = uri, keys, now
	return nil
}

// fetch returns the keys of the set that verify signatures. There may be none: an issuer that answers so has withdrawn them
// all, in an emergency for example, and is no issuer that does not answer.
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
	if raw.Keys == nil {
		return nil, fmt.Errorf("reading the keys of %s: it is no key set", k.issuer)
	}
	var keys []jose.JSONWebKey
	for _, r := range raw.Keys {
		var key jose.JSONWebKey
		// One key of a kind that is not known here must not hide the others.
		if json.Unmarshal(r, &key) == nil && key.Valid() && key.IsPublic() && key.KeyID != "" && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
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
