package rpcx

// StreamTableSizes returns the sizes of the tables of streams: routes, kept notifications,
// subscribing calls that were given up, full queues, and methods with routes.
func StreamTableSizes(s *Session) (sizes [5]int) {
	ss := s.streams.Load()
	if ss == nil {
		return sizes
	}
	s.lock()
	defer s.unlock()
	sizes = [5]int{len(ss.routes), len(ss.kept), len(ss.givenUp), len(ss.full)}
	for _, m := range *ss.known.Load() {
		sizes[4] += len(m.routes)
	}
	return sizes
}
