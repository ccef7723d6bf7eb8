package flow

import (
	"regexp"
	"testing"

	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func TestQueriesPrepare(t *testing.T) {
	conn, err := pgtest.New(t).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	named := regexp.MustCompile(`@(\w+)`)
	for name, sql := range queries {
		seen := map[string]string{}
		positional := named.ReplaceAllStringFunc(sql, func(m string) string {
			if seen[m] == "" {
				seen[m] = "$" + string(rune('1'+len(seen)))
			}
			return seen[m]
		})
		if len(seen) > 9 {
			t.Fatalf("%s has more than nine parameters: number them properly here", name)
		}
		if _, err := conn.Conn().Prepare(t.Context(), "", positional); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for n := range 100 {
		if d := backoff(n); d <= 0 || d.Seconds() > 30 {
			t.Fatalf("attempt %d waits %s", n, d)
		}
	}
}
