package api

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/permit"
)

const (
	maxToken    = 16 << 10
	clockSkew   = 30 * time.Second
	tokenCached = 10_000 // verified tokens kept; each costs some 300 bytes
)

// algorithms that a token may be signed with, whatever discovery lists.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256}

// Issuer is an OpenID provider whose access tokens are good here.
type Issuer struct {
	URL      string   // compared byte by byte with the token's iss
	Audience string   // must be in aud; the roles are those of this client
	Clients  []string // the token's azp must be one of them
	HTTP     *http.Client
}

// caller is who a verified token says is calling.
type caller struct {
	authz.Principal
	name    string
	expires time.Time
}

// tokenFault says in one word why a token is not good. It is counted and audited by that word; the token is never kept.
type tokenFault string

func (f tokenFault) Error() string { return "the token is not good here: " + string(f) }

const (
	faultAbsent    tokenFault = "absent"
	faultMalformed tokenFault = "malformed"
	faultAlgorithm tokenFault = "algorithm"
	faultIssuer    tokenFault = "issuer"
	faultKey       tokenFault = "key"
	faultSignature tokenFault = "signature"
	faultType      tokenFault = "type"
	faultAudience  tokenFault = "audience"
	faultClient    tokenFault = "client"
	faultExpired   tokenFault = "expired"
	faultTime      tokenFault = "time"
	faultSubject   tokenFault = "subject"
	faultBound     tokenFault = "sender_constrained"
)

// tokens verifies access tokens. go-oidc verifies ID tokens, which say who logged in somewhere; what an access token
// must say for us to act on it is checked here, claim by claim.
type tokens struct {
	now     func() time.Time
	issuers map[string]issuerKeys

	mu    sync.Mutex
	cache map[[32]byte]verified
}

// verified is a token's caller, and the set of keys that it was verified with.
type verified struct {
	caller
	keys  *keySet
	round int
}

type issuerKeys struct {
	Issuer
	keys *keySet
}

func newTokens(issuers []Issuer, now func() time.Time) (*tokens, error) {
	t := &tokens{now: now, issuers: map[string]issuerKeys{}, cache: map[[32]byte]verified{}}
	for _, i := range issuers {
		if i.URL == "" || i.Audience == "" || len(i.Clients) == 0 {
			return nil, fmt.Errorf("issuer %q: url, audience and clients must all be set", i.URL)
		}
		if _, twice := t.issuers[i.URL]; twice {
			return nil, fmt.Errorf("issuer %q is given twice", i.URL)
		}
		t.issuers[i.URL] = issuerKeys{i, newKeySet(i.URL, i.HTTP, now)}
	}
	if len(t.issuers) == 0 {
		return nil, errors.New("no issuer is given: nobody could log in")
	}
	return t, nil
}

// verify returns who the token speaks for. A token that was verified is known by its hash until it expires, or its
// issuer's keys are fetched anew: then its key may be one that was withdrawn.
func (t *tokens) verify(ctx context.Context, token string) (caller, error) {
	if token == "" {
		return caller{}, faultAbsent
	}
	if len(token) > maxToken {
		return caller{}, faultMalformed
	}
	hash, now := sha256.Sum256([]byte(token)), t.now()
	t.mu.Lock()
	c, ok := t.cache[hash]
	t.mu.Unlock()
	if ok {
		if !now.Before(c.expires) {
			return caller{}, faultExpired
		}
		round, err := c.keys.current(ctx)
		if err != nil {
			return caller{}, err
		}
		if round == c.round {
			return c.caller, nil
		}
	}
	c, err := t.check(ctx, token, now)
	if err != nil {
		return caller{}, err
	}
	t.remember(hash, c, now)
	return c.caller, nil
}

func (t *tokens) remember(hash [32]byte, c verified, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.cache) >= tokenCached {
		for h, old := range t.cache {
			if !now.Before(old.expires) || len(t.cache) >= tokenCached {
				delete(t.cache, h)
			}
		}
	}
	t.cache[hash] = c
}

func (t *tokens) check(ctx context.Context, token string, now time.Time) (verified, error) {
	// ParseSigned takes the compact form only where there is no white space or brace; both are refused before.
	if strings.Count(token, ".") != 2 || strings.ContainsAny(token, " \t\r\n{}=") {
		return verified{}, faultMalformed
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	switch {
	case err != nil && errors.As(err, new(*jose.ErrUnexpectedSignatureAlgorithm)):
		return verified{}, faultAlgorithm
	case err != nil || len(jws.Signatures) != 1:
		return verified{}, faultMalformed
	}
	header := jws.Signatures[0].Protected
	if typ, given := header.ExtraHeaders[jose.HeaderType]; given {
		if s, _ := typ.(string); !strings.EqualFold(s, "JWT") && !strings.EqualFold(s, "at+jwt") {
			return verified{}, faultType
		}
	}
	// Unverified: only to find whose key to verify with.
	unverified := jws.UnsafePayloadWithoutVerification()
	if checkJSON(unverified) != nil {
		return verified{}, faultMalformed
	}
	var whose struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(unverified, &whose) != nil {
		return verified{}, faultMalformed
	}
	issuer, ok := t.issuers[whose.Issuer]
	if !ok {
		return verified{}, faultIssuer
	}
	if header.KeyID == "" {
		return verified{}, faultKey
	}
	key, round, err := issuer.keys.key(ctx, header.KeyID)
	if err != nil {
		return verified{}, err
	}
	if key == nil || key.Algorithm != "" && key.Algorithm != header.Algorithm {
		return verified{}, faultKey
	}
	if pub, isRSA := key.Key.(*rsa.PublicKey); isRSA && pub.N.BitLen() < 2048 {
		return verified{}, faultKey
	}
	payload, err := jws.Verify(key.Key)
	if err != nil {
		return verified{}, faultSignature
	}
	c, err := issuer.read(payload, now)
	return verified{c, issuer.keys, round}, err
}

// claims are those of an access token in Keycloak's layout. realm_access is not ours and is not read.
type claims struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Type      string          `json:"typ"`
	Party     string          `json:"azp"`
	Audience  audience        `json:"aud"`
	Expires   *float64        `json:"exp"`
	Issued    *float64        `json:"iat"`
	NotBefore *float64        `json:"nbf"`
	Confirm   json.RawMessage `json:"cnf"`
	Username  string          `json:"preferred_username"`
	Name      string          `json:"name"`
	// Client and Host are what Keycloak adds for a client's own account; Client stands in everybody's token by RFC 9068.
	Client string          `json:"client_id"`
	Host   json.RawMessage `json:"clientHost"`
	Access map[string]struct {
		Roles []string `json:"roles"`
	} `json:"resource_access"`
}

func (i issuerKeys) read(payload []byte, now time.Time) (caller, error) {
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return caller{}, faultMalformed
	}
	switch {
	case c.Issuer != i.URL:
		return caller{}, faultIssuer
	case c.Type != "Bearer": // an ID, refresh or logout token says something else here
		return caller{}, faultType
	case !slices.Contains(c.Audience, i.Audience):
		return caller{}, faultAudience
	case !slices.Contains(i.Clients, c.Party): // any client of the realm can get our audience
		return caller{}, faultClient
	case !permit.Subject(c.Subject):
		return caller{}, faultSubject
	case c.Expires == nil || c.Issued == nil || *c.Expires < 0 || *c.Issued < 0 || *c.Expires > 1<<40 || *c.Issued > 1<<40:
		return caller{}, faultTime
	case len(c.Confirm) > 0: // bound to a key that this request has not shown
		return caller{}, faultBound
	}
	expires := time.Unix(int64(*c.Expires), 0).Add(clockSkew)
	switch {
	case !now.Before(expires):
		return caller{}, faultExpired
	case time.Unix(int64(*c.Issued), 0).After(now.Add(clockSkew)) || *c.Issued > *c.Expires:
		return caller{}, faultTime
	case c.NotBefore != nil && (*c.NotBefore < 0 || *c.NotBefore > 1<<40 || time.Unix(int64(*c.NotBefore), 0).After(now.Add(clockSkew))):
		return caller{}, faultTime
	}
	who := caller{Principal: authz.Principal{Subject: i.URL + "|" + c.Subject, Kind: "service"}, name: c.Username, expires: expires}
	if who.name == "" {
		who.name = c.Name
	}
	if len(who.name) > 200 || strings.ContainsFunc(who.name, unprintable) {
		who.name = ""
	}
	if c.ofPerson() {
		who.Kind = "person"
	}
	for _, role := range c.Access[i.Audience].Roles {
		if slices.Contains(authz.Roles, role) && !slices.Contains(who.Roles, role) {
			who.Roles = append(who.Roles, role)
		}
	}
	return who, nil
}

// ofPerson: nothing in a token says "person". A name that is none of Keycloak's service accounts does, as far as an issuer
// is trusted; a token without a name, such as one for client credentials without the profile scope, decides nothing. A
// client that speaks for itself is told by its own name as subject (RFC 9068, section 2.2), or by Keycloak's clientHost.
func (c claims) ofPerson() bool {
	return c.Username != "" && !strings.HasPrefix(c.Username, "service-account-") &&
		c.Subject != c.Party && c.Subject != c.Client && len(c.Host) == 0
}

func unprintable(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }

// audience is a string or an array of them.
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*a = make([]string, 1)
		return json.Unmarshal(data, &(*a)[0])
	}
	return json.Unmarshal(data, (*[]string)(a))
}
