package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// session is what login keeps for the next command, readable by the user alone.
type session struct {
	Server   string        `json:"server"`
	Issuer   string        `json:"issuer"`
	ClientID string        `json:"client_id"`
	Token    *oauth2.Token `json:"token,omitempty"`
}

func sessionPath() (string, error) {
	dir := os.Getenv("SIESTA_CONFIG_DIR")
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("looking for the configuration directory: %w", err)
		}
		dir = filepath.Join(base, "siesta")
	}
	return filepath.Join(dir, "session.json"), nil
}

func loadSession() (session, error) {
	path, err := sessionPath()
	if err != nil {
		return session{}, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return session{}, nil
	}
	if err != nil {
		return session{}, fmt.Errorf("reading session: %w", err)
	}
	var s session
	if err := json.Unmarshal(data, &s); err != nil {
		return session{}, fmt.Errorf("reading session %s: %w; run `siesta login` again", path, err)
	}
	return s, nil
}

// save writes the session whole or not at all.
func (s session) save() error {
	path, err := sessionPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("saving session: %w", err)
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("saving session: %w", err)
	}
	part := path + ".part"
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return fmt.Errorf("saving session: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("saving session: %w", err)
	}
	return nil
}

// provider is the part of OpenID discovery that a command line needs.
type provider struct {
	Issuer   string `json:"issuer"`
	TokenURL string `json:"token_endpoint"`
	Device   string `json:"device_authorization_endpoint"`
}

func discover(ctx context.Context, issuer string) (provider, error) {
	if u, err := url.Parse(issuer); err != nil || u.Host == "" {
		return provider{}, fmt.Errorf("issuer %q is not a URL; give --issuer or SIESTA_ISSUER", issuer)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return provider{}, fmt.Errorf("asking issuer %s: %w", issuer, err)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return provider{}, fmt.Errorf("asking issuer %s: %w", issuer, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return provider{}, fmt.Errorf("asking issuer %s: it answered %s", issuer, resp.Status)
	}
	var p provider
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p); err != nil {
		return provider{}, fmt.Errorf("asking issuer %s: %w", issuer, err)
	}
	if p.Issuer != issuer {
		return provider{}, fmt.Errorf("asking issuer %s: it calls itself %q; use exactly that name", issuer, p.Issuer)
	}
	return p, nil
}

var httpClient = &http.Client{Timeout: 2 * time.Minute}

// maxInterval is how many seconds a device flow may let pass between two questions.
const maxInterval = 300

// deviceLogin asks the person to approve this command line in a browser and waits until that has happened.
func deviceLogin(ctx context.Context, s session, out io.Writer) (*oauth2.Token, error) {
	p, err := discover(ctx, s.Issuer)
	if err != nil {
		return nil, err
	}
	if p.Device == "" {
		return nil, fmt.Errorf("issuer %s offers no device flow; use client credentials (--client-secret-file)", s.Issuer)
	}
	config := oauth2.Config{ClientID: s.ClientID, Endpoint: oauth2.Endpoint{
		DeviceAuthURL: p.Device, TokenURL: p.TokenURL, AuthStyle: oauth2.AuthStyleInParams,
	}}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, httpClient)
	verifier := oauth2.GenerateVerifier()
	device, err := config.DeviceAuth(ctx, oauth2.S256ChallengeOption(verifier))
	if err != nil {
		return nil, fmt.Errorf("starting the device flow at %s: %w", s.Issuer, err)
	}
	if device.Interval < 0 || device.Interval > maxInterval { // oauth2 makes a ticker of it, and 5 of a zero
		return nil, fmt.Errorf("starting the device flow at %s: it wants to be asked every %d seconds, which is not between 1 and %d; "+
			"tell whoever runs it, or use client credentials (--client-secret-file)", s.Issuer, device.Interval, maxInterval)
	}
	where := device.VerificationURIComplete
	if where == "" {
		where = device.VerificationURI
	}
	fmt.Fprintf(out, "Open %s\nand confirm the code %s\n", plain(where), plain(device.UserCode))
	token, err := config.DeviceAccessToken(ctx, device, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, fmt.Errorf("waiting for the confirmation: %w", err)
	}
	return token, nil
}

// secretLogin gets a token for a service account. The secret comes from a file: an argument would show in the process list.
func secretLogin(ctx context.Context, s session, secretFile string) (*oauth2.Token, error) {
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		return nil, fmt.Errorf("reading the client secret: %w", err)
	}
	p, err := discover(ctx, s.Issuer)
	if err != nil {
		return nil, err
	}
	config := clientcredentials.Config{ClientID: s.ClientID, ClientSecret: strings.TrimSpace(string(secret)), TokenURL: p.TokenURL}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, httpClient))
	if err != nil {
		return nil, fmt.Errorf("asking issuer %s for a token: %w", s.Issuer, err)
	}
	return token, nil
}

// bearer returns a valid access token: of the environment, of the session, or refreshed and saved.
func (s *session) bearer(ctx context.Context) (string, error) {
	if token := os.Getenv("SIESTA_TOKEN"); token != "" {
		return token, nil
	}
	if s.Token == nil {
		return "", errors.New("not logged in: run `siesta login`, or set SIESTA_TOKEN")
	}
	if s.Token.Valid() {
		return s.Token.AccessToken, nil
	}
	if s.Token.RefreshToken == "" {
		return "", errors.New("the login has expired: run `siesta login` again")
	}
	p, err := discover(ctx, s.Issuer)
	if err != nil {
		return "", err
	}
	config := oauth2.Config{ClientID: s.ClientID, Endpoint: oauth2.Endpoint{TokenURL: p.TokenURL, AuthStyle: oauth2.AuthStyleInParams}}
	token, err := config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, httpClient), s.Token).Token()
	if err != nil {
		return "", fmt.Errorf("renewing the login: %w; run `siesta login` again", err)
	}
	s.Token = token
	return token.AccessToken, s.save()
}
