package issuer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

func start(t *testing.T) *httptest.Server {
	t.Helper()
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	var err error
	handler, err = New(server.URL, []User{
		{Name: "rita", Roles: []string{"researcher"}},
		{Name: "script", Roles: []string{"operator"}, Secret: "s3cret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

type claims struct {
	Subject  string           `json:"sub"`
	Audience jwt.Audience     `json:"aud"`
	Type     string           `json:"typ"`
	Party    string           `json:"azp"`
	Name     string           `json:"preferred_username"`
	Access   map[string]roles `json:"resource_access"`
}

type roles struct {
	Roles []string `json:"roles"`
}

func read(t *testing.T, token string) claims {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	if err := parsed.UnsafeClaimsWithoutVerification(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDeviceFlowGivesKeycloakShapedToken(t *testing.T) {
	server := start(t)
	ctx := context.Background()
	config := oauth2.Config{ClientID: CLI, Endpoint: oauth2.Endpoint{
		DeviceAuthURL: server.URL + "/device_authorization", TokenURL: server.URL + "/oauth/token", AuthStyle: oauth2.AuthStyleInParams,
	}}
	device, err := config.DeviceAuth(ctx)
	if err != nil {
		t.Fatal(err)
	}
	approve(t, server.URL, device.UserCode, "nobody", http.StatusNotFound)
	approve(t, server.URL, device.UserCode, "script", http.StatusNotFound) // a service account is nobody who could say yes
	approve(t, server.URL, device.UserCode, "rita", http.StatusNoContent)
	approve(t, server.URL, device.UserCode, "rita", http.StatusNotFound) // a code is used once
	token, err := config.DeviceAccessToken(ctx, device)
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, token.AccessToken)
	if got.Subject != "rita" || !got.Audience.Contains(Audience) || got.Type != "Bearer" || got.Party != CLI || got.Name != "rita" || len(got.Access[Audience].Roles) != 1 {
		t.Errorf("claims of the device flow: %+v", got)
	}
}

func TestServiceAccountNeedsItsSecret(t *testing.T) {
	server := start(t)
	config := clientcredentials.Config{ClientID: "script", ClientSecret: "wrong", TokenURL: server.URL + "/oauth/token"}
	if _, err := config.Token(context.Background()); err == nil {
		t.Fatal("a wrong secret was accepted")
	}
	config.ClientSecret = "s3cret"
	token, err := config.Token(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, token.AccessToken); got.Party != "script" || got.Access[Audience].Roles[0] != "operator" {
		t.Errorf("claims of a service account: %+v", got)
	}
}

func approve(t *testing.T, issuer, code, user string, want int) {
	t.Helper()
	resp, err := http.Post(issuer+"/approve?"+url.Values{"user_code": {code}, "user": {user}}.Encode(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("approving as %s: got %d, want %d", user, resp.StatusCode, want)
	}
}
