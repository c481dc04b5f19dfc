package rpcx

import "slices"

// hubRing holds the values that wait for room, in their order.
type hubRing struct {
	values []*hubValue // nil for a removed value
	head   int         // index of the first value
	first  int         // number of values[0]
	count  int         // without removed values
	bytes  int
	byKey  map[string]int // numbers of the values, for KeepLatest
	hubs   *sessionHubs   // counts the values of the session
}

// add counts v.
func (r *hubRing) add(v *hubValue) {
	r.count++
	r.bytes += v.countedBytes()
	r.hubs.waiting++
	r.hubs.bytes += v.countedBytes()
	v.retain()
}

// drop reverts add.
func (r *hubRing) drop(v *hubValue) {
	r.count--
	r.bytes -= v.countedBytes()
	r.hubs.waiting--
	r.hubs.bytes -= v.countedBytes()
	v.release()
}

// clear removes all values. An empty ring keeps no memory.
func (r *hubRing) clear() {
	for _, v := range r.values {
		if v != nil {
			r.drop(v)
		}
	}
	*r = hubRing{hubs: r.hubs}
}

// front returns the first value, or nil.
func (r *hubRing) front() *hubValue {
	for r.count > 0 && r.values[r.head] == nil {
		r.head++
	}
	if r.count == 0 {
		return nil
	}
	return r.values[r.head]
}

// has reports whether a value with the given key waits.
func (r *hubRing) has(key string) bool {
	_, ok := r.byKey[key]
	return ok
}

// pushBack appends v. If keyed is set, remove finds v by its key.
func (r *hubRing) pushBack(v *hubValue, keyed bool) {
	if len(r.values) == cap(r.values) && len(r.values) > 2*r.count+16 {
		r.compact()
	}
	if keyed {
		r.setNumber(v.key, r.first+len(r.values))
	}
	r.values = append(r.values, v)
	r.add(v)
}

// pushFront puts v before the other values.
func (r *hubRing) pushFront(v *hubValue, keyed bool) {
	if r.head == 0 {
		r.values, r.head, r.first = slices.Insert(r.values, 0, nil), 1, r.first-1
	}
	r.head--
	r.values[r.head] = v
	if keyed {
		r.setNumber(v.key, r.first+r.head)
	}
	r.add(v)
}

// compact closes the gaps that removed values have left.
func (r *hubRing) compact() {
	n := 0
	for i, v := range r.values {
		if v == nil {
			continue
		}
		if number, ok := r.byKey[v.key]; ok && number == r.first+i {
			r.byKey[v.key] = r.first + n
		}
		r.values[n] = v
		n++
	}
	clear(r.values[n:])
	r.values, r.head = r.values[:n], 0
}

func (r *hubRing) setNumber(key string, number int) {
	if r.byKey == nil {
		r.byKey = make(map[string]int)
	}
	r.byKey[key] = number
}

// popFront removes the first value.
func (r *hubRing) popFront() {
	v := r.front()
	if v == nil {
		return
	}
	if r.removeAt(r.head); r.count > 0 {
		r.head++
	}
}

// remove removes the value with the given key, and reports whether there was one.
func (r *hubRing) remove(key string) bool {
	number, ok := r.byKey[key]
	if ok {
		r.removeAt(number - r.first)
	}
	return ok
}

// removeAt removes the value with index i.
func (r *hubRing) removeAt(i int) {
	v := r.values[i]
	r.values[i] = nil
	r.drop(v)
	if number, ok := r.byKey[v.key]; ok && number == r.first+i {
		delete(r.byKey, v.key)
	}
	if r.count == 0 {
		r.clear()
	}
}
