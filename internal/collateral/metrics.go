package collateral

import (
	"crypto/rand"
	"math/big"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	answers    *prometheus.CounterVec
	requests   *prometheus.CounterVec
	overBudget prometheus.Counter
	objects    prometheus.Gauge
}

// newMetrics makes the counters, and registers them where there is a registry.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "siestad_collateral_answers_total", Help: "Lookups of collateral for evidence, by state.",
		}, []string{"state"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "siestad_collateral_requests_total", Help: "Requests to vendors, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		overBudget: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "siestad_collateral_over_budget_total", Help: "Subjects not asked for because a project's budget was spent.",
		}),
		objects: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "siestad_collateral_subjects", Help: "Subjects of which an object is at hand.",
		}),
	}
	if r != nil {
		r.MustRegister(m.answers, m.requests, m.overBudget, m.objects)
	}
	return m
}

func newHolder() string { return rand.Text() }

func randomJitter() float64 {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<20))
	if err != nil {
		return 0
	}
	return float64(n.Int64()) / (1 << 20)
}
