package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	denied   *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "siestad_http_requests_total", Help: "Requests answered, by method, route and status.",
		}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "siestad_http_request_seconds", Help: "Time to answer, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "siestad_denied_total", Help: "Operations denied, by operation and code.",
		}, []string{"operation", "code"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "siestad_guest_refusals_total", Help: "Guests refused at either door, by code; format for what could not be read.",
		}, []string{"code"}),
	}
	r.MustRegister(m.requests, m.seconds, m.denied, m.refused)
	return m
}

// observe takes the route's pattern, never the path: ids must not become label values, nor may strangers' methods.
func (m *metrics) observe(method, route string, status int, took time.Duration) {
	if route == "" {
		method, route = "", "none"
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}
