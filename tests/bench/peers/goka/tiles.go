package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// tiles are the state of one user: three rings of tiles in time order. Tile k of width w holds the
// times (k*w, (k+1)*w]; a window read at T covers (T / w * w - window, T].
type tiles struct {
	rings [3][]tile
}

// tile is its number and up to three cells: n; cents, dwell, n; most cents, n.
type tile struct {
	number, a int64
	dwell     float64
	n         int64
}

var (
	width = [3]int64{10_000, 60_000, 1_800_000} // ms
	kept  = [3]int64{30, 60, 48}
)

func (t *tiles) add(time, cents int64, dwell float64) {
	short := t.newest(0, time)
	short.n++
	hour := t.newest(1, time)
	hour.a += cents
	hour.dwell += dwell
	hour.n++
	day := t.newest(2, time)
	day.a = max(day.a, cents)
	day.n++
}

// newest is the tile of time, after the tiles that no later read needs are gone.
func (t *tiles) newest(r int, time int64) *tile {
	ring, lowest, gone := t.rings[r], time/width[r]-kept[r], 0
	for gone < len(ring) && ring[gone].number < lowest {
		gone++
	}
	if gone > 0 {
		ring = append(ring[:0], ring[gone:]...)
	}
	number := (time - 1) / width[r]
	if len(ring) == 0 || ring[len(ring)-1].number != number {
		ring = append(ring, tile{number: number})
	}
	t.rings[r] = ring
	return &ring[len(ring)-1]
}

// features are the five as of the newest event, as a JSON list.
func (t *tiles) features() []byte {
	var shortly, cents, n, most, daily int64
	var dwell float64
	for _, tile := range t.rings[0] {
		shortly += tile.n
	}
	for _, tile := range t.rings[1] {
		cents += tile.a
		dwell += tile.dwell
		n += tile.n
	}
	for _, tile := range t.rings[2] {
		most = max(most, tile.a)
		daily += tile.n
	}
	out := make([]byte, 0, 64)
	out = strconv.AppendInt(append(out, '['), shortly, 10)
	out = strconv.AppendFloat(append(out, ','), float64(cents)/100, 'f', -1, 64)
	out = strconv.AppendFloat(append(out, ','), dwell/float64(n), 'g', -1, 64)
	out = strconv.AppendFloat(append(out, ','), float64(most)/100, 'f', -1, 64)
	out = strconv.AppendInt(append(out, ','), daily, 10)
	return append(out, ']')
}

// tilesCodec is the form of the state in the group table: counts and tiles, eight bytes a number.
type tilesCodec struct{}

func (tilesCodec) Encode(value any) ([]byte, error) {
	state, ok := value.(*tiles)
	if !ok {
		return nil, fmt.Errorf("%T is no state", value)
	}
	out := make([]byte, 0, 12+32*(len(state.rings[0])+len(state.rings[1])+len(state.rings[2])))
	for _, ring := range state.rings {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(ring)))
		for _, tile := range ring {
			out = binary.LittleEndian.AppendUint64(out, uint64(tile.number))
			out = binary.LittleEndian.AppendUint64(out, uint64(tile.a))
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(tile.dwell))
			out = binary.LittleEndian.AppendUint64(out, uint64(tile.n))
		}
	}
	return out, nil
}

func (tilesCodec) Decode(data []byte) (any, error) {
	state := new(tiles)
	for r := range state.rings {
		ring := make([]tile, binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data)+1)
		data = data[4:]
		for i := range ring {
			ring[i] = tile{
				number: int64(binary.LittleEndian.Uint64(data)),
				a:      int64(binary.LittleEndian.Uint64(data[8:])),
				dwell:  math.Float64frombits(binary.LittleEndian.Uint64(data[16:])),
				n:      int64(binary.LittleEndian.Uint64(data[24:])),
			}
			data = data[32:]
		}
		state.rings[r] = ring
	}
	return state, nil
}

// murmur2 is the hash by which the log is partitioned, so that the group table is partitioned alike.
type murmur2 struct{ data []byte }

func (m *murmur2) Write(data []byte) (int, error) {
	m.data = append(m.data, data...)
	return len(data), nil
}

func (m *murmur2) Sum32() uint32 {
	const mix = 0x5bd1e995
	data := m.data
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * mix
		h = h*mix ^ (k^k>>24)*mix
	}
	for i := len(data) - 1; i >= 0; i-- {
		h ^= uint32(data[i]) << (8 * i)
	}
	if len(data) > 0 {
		h *= mix
	}
	h = (h ^ h>>13) * mix
	return (h ^ h>>15) & 0x7fffffff
}

func (m *murmur2) Sum(b []byte) []byte { return binary.BigEndian.AppendUint32(b, m.Sum32()) }
func (m *murmur2) Reset()              { m.data = m.data[:0] }
func (m *murmur2) Size() int           { return 4 }
func (m *murmur2) BlockSize() int      { return 4 }
