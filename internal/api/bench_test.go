package api

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
)

// BenchmarkGet is an authenticated, authorised and validated GET of one project from the database.
func BenchmarkGet(b *testing.B) {
	r := newRig(b)
	op := r.person("op", "operator")
	r.project("epi", "x")
	var p gen.Project
	r.want(200, op, "GET", "/v1/projects/epi", nil).into(b, &p)
	// A clock on which an hour passes between two requests, so that the limit on callers stays out of it.
	now := start
	r.server.limiter.now = func() time.Time { now = now.Add(time.Hour); return now }
	for b.Loop() {
		req := httptest.NewRequestWithContext(context.Background(), "GET", "/v1/projects/epi", nil)
		req.Header.Set("Authorization", "Bearer "+op.token)
		w := httptest.NewRecorder()
		r.api.ServeHTTP(w, req)
		if w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}
