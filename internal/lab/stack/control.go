//go:build devtee

package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/oauth2"

	"github.com/eosc-siesta/siestad/internal/lab/issuer"
)

// control is how another process makes the hostile operator act: POST /attack?kind=clone&workspace=….
func (s *Stack) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /attack", func(w http.ResponseWriter, r *http.Request) {
		console, err := s.Attack(r.Context(), Attack(r.URL.Query().Get("kind")), r.URL.Query().Get("workspace"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		_, _ = io.WriteString(w, console)
	})
	return mux
}

// Attack boots an altered guest of a workspace behind the cloud's back and returns what it said before it gave up.
func (s *Stack) Attack(ctx context.Context, kind Attack, workspace string) (string, error) {
	return s.host.attack(ctx, kind, workspace)
}

// Open reads the state of a demo that runs in another process.
func Open(dir string) (State, error) {
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return State{}, fmt.Errorf("looking for a running demo: %w; start one with make demo", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("reading %s: %w", filepath.Join(dir, "state.json"), err)
	}
	return s, nil
}

// Attack asks the running demo's operator to act.
func (s State) Attack(ctx context.Context, kind Attack, workspace string) (string, error) {
	return post(ctx, s.Control+"/attack?"+url.Values{"kind": {string(kind)}, "workspace": {workspace}}.Encode())
}

// Approve says yes to a device code in the name of a test user.
func (s State) Approve(ctx context.Context, code, user string) error {
	_, err := post(ctx, s.Issuer+"/approve?"+url.Values{"user_code": {code}, "user": {user}}.Encode())
	return err
}

// Token goes through the device flow for a test user, saying yes itself.
func (s State) Token(ctx context.Context, user string) (string, error) {
	config := oauth2.Config{ClientID: issuer.CLI, Endpoint: oauth2.Endpoint{
		DeviceAuthURL: s.Issuer + "/device_authorization", TokenURL: s.Issuer + "/oauth/token", AuthStyle: oauth2.AuthStyleInParams,
	}}
	device, err := config.DeviceAuth(ctx)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	if err := s.Approve(ctx, device.UserCode, user); err != nil {
		return "", err
	}
	token, err := config.DeviceAccessToken(ctx, device)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	return token.AccessToken, nil
}

func post(ctx context.Context, target string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 {
		return "", errors.New(strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

// hostOf returns host:port of the URL in a credential file.
func hostOf(credential string) string {
	line, _, _ := strings.Cut(credential, "\n")
	u, err := url.Parse(strings.TrimPrefix(line, "auth_url: "))
	if err != nil {
		return ""
	}
	return u.Host
}
