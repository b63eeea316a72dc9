package bench;

import java.nio.ByteBuffer;
import java.util.Arrays;

/**
 * State of one user: three rings of tiles in one byte array, the form it has in the state store.
 *
 * <p>Tile {@code k} of width {@code w} holds the times {@code (k*w, (k+1)*w]}; a window read at
 * {@code T} covers {@code (T / w * w - window, T]}. Each ring is a count and then its tiles in time
 * order: (tile, n), (tile, cents, dwell, n), (tile, most cents, n), eight bytes a number.
 */
final class Tiles {
  private static final long[] WIDTH = {10_000, 60_000, 1_800_000};
  private static final int[] TILES = {30, 60, 48};
  private static final int[] CELLS = {2, 4, 3};

  private final long[][] ring = new long[3][];
  private final int[] size = new int[3];

  Tiles(byte[] stored) {
    ByteBuffer in = stored == null ? null : ByteBuffer.wrap(stored);
    for (int r = 0; r < 3; r++) {
      size[r] = in == null ? 0 : in.getInt();
      ring[r] = new long[(size[r] + 1) * CELLS[r]];
      for (int i = 0; i < size[r] * CELLS[r]; i++) {
        ring[r][i] = in.getLong();
      }
    }
  }

  byte[] encode() {
    int cells = 0;
    for (int r = 0; r < 3; r++) {
      cells += size[r] * CELLS[r];
    }
    ByteBuffer out = ByteBuffer.allocate(3 * Integer.BYTES + cells * Long.BYTES);
    for (int r = 0; r < 3; r++) {
      out.putInt(size[r]);
      for (int i = 0; i < size[r] * CELLS[r]; i++) {
        out.putLong(ring[r][i]);
      }
    }
    return out.array();
  }

  void add(long time, long cents, double dwell) {
    int at = newest(0, time);
    ring[0][at + 1] += 1;
    at = newest(1, time);
    ring[1][at + 1] += cents;
    double before = Double.longBitsToDouble(ring[1][at + 2]);
    ring[1][at + 2] = Double.doubleToRawLongBits(before + dwell);
    ring[1][at + 3] += 1;
    at = newest(2, time);
    ring[2][at + 1] = Math.max(ring[2][at + 1], cents);
    ring[2][at + 2] += 1;
  }

  /** Where the tile of {@code time} begins, after the tiles that no later read needs are gone. */
  private int newest(int r, long time) {
    int cells = CELLS[r];
    long lowest = time / WIDTH[r] - TILES[r];
    int gone = 0;
    while (gone < size[r] && ring[r][gone * cells] < lowest) {
      gone++;
    }
    if (gone > 0) {
      size[r] -= gone;
      System.arraycopy(ring[r], gone * cells, ring[r], 0, size[r] * cells);
    }
    long tile = (time - 1) / WIDTH[r];
    int last = (size[r] - 1) * cells;
    if (size[r] > 0 && ring[r][last] == tile) {
      return last;
    }
    int at = size[r] * cells;
    if (at == ring[r].length) {
      ring[r] = Arrays.copyOf(ring[r], at + 4 * cells);
    }
    Arrays.fill(ring[r], at, at + cells, 0);
    ring[r][at] = tile;
    size[r]++;
    return at;
  }

  /** The five features as of the newest event, as a JSON list. */
  String features() {
    long shortly = 0;
    for (int i = 0; i < size[0]; i++) {
      shortly += ring[0][i * 2 + 1];
    }
    long cents = 0;
    long n = 0;
    double dwell = 0;
    for (int i = 0; i < size[1]; i++) {
      cents += ring[1][i * 4 + 1];
      dwell += Double.longBitsToDouble(ring[1][i * 4 + 2]);
      n += ring[1][i * 4 + 3];
    }
    long most = 0;
    long daily = 0;
    for (int i = 0; i < size[2]; i++) {
      most = Math.max(most, ring[2][i * 3 + 1]);
      daily += ring[2][i * 3 + 2];
    }
    return "[" + shortly + "," + cents / 100.0 + "," + dwell / n + "," + most / 100.0 + ","
        + daily + "]";
  }
}
