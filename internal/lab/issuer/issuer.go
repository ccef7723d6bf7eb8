// Package issuer is the demo's OpenID provider: a library's provider over an
// in-memory list of test users. It gives access tokens in Keycloak's claim
// layout (typ, azp, resource_access) by the device flow and to service
// accounts. Whoever can reach it can approve a device code for any of its test
// users, so it listens on loopback and belongs to development builds alone.
package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Audience is the resource server that every token is for, and the client whose roles it lists.
const Audience = "siestad"

// CLI is the public client of the command line, for the device flow.
const CLI = "siesta-cli"

// tokenLifetime is long, for this issuer gives no refresh tokens and an emulated guest takes its time.
const tokenLifetime = time.Hour

// User is a test user, or a service account when it has a secret: then its name is also its client id.
type User struct {
	Name   string
	Roles  []string
	Secret string
}

// New returns the provider's handler for an issuer URL on loopback.
//
// Besides the provider's own paths it serves POST /approve?user_code=…&user=…, by which the lab says yes to a device
// code in the name of a test user.
func New(issuerURL string, users []User) (http.Handler, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the issuer's key: %w", err)
	}
	s := &store{key: key, keyID: uuid.NewString(), users: map[string]User{}, devices: map[string]*device{}}
	for _, u := range users {
		s.users[u.Name] = u
	}
	var cryptoKey [32]byte
	if _, err := rand.Read(cryptoKey[:]); err != nil {
		return nil, fmt.Errorf("making the issuer's key: %w", err)
	}
	provider, err := op.NewProvider(&op.Config{
		CryptoKey:      cryptoKey,
		CryptoKeyId:    "demo",
		AuthMethodPost: true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime: 10 * time.Minute, PollInterval: time.Second, UserFormPath: "/device", UserCode: op.UserCodeBase20,
		},
	}, s, op.StaticIssuer(issuerURL), op.WithAllowInsecure())
	if err != nil {
		return nil, fmt.Errorf("making the issuer: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	mux.HandleFunc("POST /approve", s.approve)
	mux.HandleFunc("GET /device", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "To say yes as a test user:\n  curl -X POST '%s/approve?user_code=%s&user=NAME'\n", issuerURL, r.URL.Query().Get("user_code"))
	})
	return mux, nil
}

type store struct {
	key   *ecdsa.PrivateKey
	keyID string
	users map[string]User

	mu      sync.Mutex
	devices map[string]*device // by device code
}

type device struct {
	userCode string
	state    op.DeviceAuthorizationState
}

func (s *store) approve(w http.ResponseWriter, r *http.Request) {
	user, ok := s.users[r.URL.Query().Get("user")]
	if !ok || user.Secret != "" {
		http.Error(w, "no such test user", http.StatusNotFound)
		return
	}
	code := r.URL.Query().Get("user_code")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if code != "" && d.userCode == code && !d.state.Done {
			d.state.Done, d.state.Subject, d.state.AuthTime = true, user.Name, time.Now()
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	http.Error(w, "no such code, or used already", http.StatusNotFound)
}

// StoreDeviceAuthorization implements op.DeviceAuthorizationStorage.
func (s *store) StoreDeviceAuthorization(_ context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for code, d := range s.devices {
		if time.Now().After(d.state.Expires) {
			delete(s.devices, code)
		} else if d.userCode == userCode {
			return op.ErrDuplicateUserCode
		}
	}
	s.devices[deviceCode] = &device{userCode: userCode, state: op.DeviceAuthorizationState{
		ClientID: clientID, Audience: []string{Audience}, Scopes: scopes, Expires: expires,
	}}
	return nil
}

// GetDeviceAuthorizatonState implements op.DeviceAuthorizationStorage.
func (s *store) GetDeviceAuthorizatonState(_ context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[deviceCode]
	if !ok || d.state.ClientID != clientID {
		return nil, errors.New("no such device code")
	}
	state := d.state
	return &state, nil
}

// CreateAccessToken implements op.AuthStorage. Tokens are JWTs: nothing has to be kept.
func (s *store) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return uuid.NewString(), time.Now().Add(tokenLifetime), nil
}

// GetPrivateClaimsFromRequest adds what Keycloak puts into an access token besides the registered claims.
func (s *store) GetPrivateClaimsFromRequest(_ context.Context, request op.TokenRequest, _ []string) (map[string]any, error) {
	user, ok := s.users[request.GetSubject()]
	if !ok {
		return nil, errors.New("no such user")
	}
	client := CLI
	if user.Secret != "" {
		client = user.Name
	}
	return map[string]any{
		"typ": "Bearer", "azp": client, "preferred_username": user.Name,
		"resource_access": map[string]any{Audience: map[string]any{"roles": user.Roles}},
	}, nil
}

// ClientCredentials implements op.ClientCredentialsStorage.
func (s *store) ClientCredentials(_ context.Context, clientID, secret string) (op.Client, error) {
	if err := s.checkSecret(clientID, secret); err != nil {
		return nil, err
	}
	return client{id: clientID, secret: true}, nil
}

// ClientCredentialsTokenRequest implements op.ClientCredentialsStorage.
func (s *store) ClientCredentialsTokenRequest(_ context.Context, clientID string, scopes []string) (op.TokenRequest, error) {
	return serviceRequest{clientID, scopes}, nil
}

// GetClientByClientID implements op.OPStorage.
func (s *store) GetClientByClientID(_ context.Context, clientID string) (op.Client, error) {
	if clientID == CLI {
		return client{id: CLI}, nil
	}
	if u, ok := s.users[clientID]; ok && u.Secret != "" {
		return client{id: clientID, secret: true}, nil
	}
	return nil, errors.New("no such client")
}

// AuthorizeClientIDSecret implements op.OPStorage.
func (s *store) AuthorizeClientIDSecret(_ context.Context, clientID, secret string) error {
	return s.checkSecret(clientID, secret)
}

func (s *store) checkSecret(clientID, secret string) error {
	u, ok := s.users[clientID]
	if !ok || u.Secret == "" || subtle.ConstantTimeCompare([]byte(u.Secret), []byte(secret)) != 1 {
		return errors.New("unknown client or wrong secret")
	}
	return nil
}

// SigningKey implements op.AuthStorage.
func (s *store) SigningKey(context.Context) (op.SigningKey, error) {
	return signingKey{s.keyID, s.key}, nil
}

// SignatureAlgorithms implements op.AuthStorage.
func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

// KeySet implements op.AuthStorage.
func (s *store) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{signingKey{s.keyID, s.key}}}, nil
}

// Health implements op.Storage.
func (s *store) Health(context.Context) error { return nil }

type serviceRequest struct {
	clientID string
	scopes   []string
}

func (r serviceRequest) GetSubject() string    { return r.clientID }
func (r serviceRequest) GetAudience() []string { return []string{Audience} }
func (r serviceRequest) GetScopes() []string   { return r.scopes }

type signingKey struct {
	id  string
	key *ecdsa.PrivateKey
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return k.id }

type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return k.key.Public() }

// client is either the public command line or a service account.
type client struct {
	id     string
	secret bool
}

func (c client) GetID() string                       { return c.id }
func (c client) RedirectURIs() []string              { return nil }
func (c client) PostLogoutRedirectURIs() []string    { return nil }
func (c client) ApplicationType() op.ApplicationType { return op.ApplicationTypeNative }
func (c client) ResponseTypes() []oidc.ResponseType  { return nil }
func (c client) LoginURL(string) string              { return "" }
func (c client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

func (c client) IDTokenLifetime() time.Duration                               { return tokenLifetime }
func (c client) DevMode() bool                                                { return true }
func (c client) IsScopeAllowed(scope string) bool                             { return strings.HasPrefix(scope, "siestad") }
func (c client) IDTokenUserinfoClaimsAssertion() bool                         { return false }
func (c client) ClockSkew() time.Duration                                     { return 0 }
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return keepScopes }
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return keepScopes }

func (c client) AuthMethod() oidc.AuthMethod {
	if c.secret {
		return oidc.AuthMethodBasic
	}
	return oidc.AuthMethodNone
}

func (c client) GrantTypes() []oidc.GrantType {
	if c.secret {
		return []oidc.GrantType{oidc.GrantTypeClientCredentials}
	}
	return []oidc.GrantType{oidc.GrantTypeDeviceCode}
}

func keepScopes(scopes []string) []string { return scopes }
