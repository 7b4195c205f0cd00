// Unpacks what the page carries and answers what value a voxel has.
"use strict";
const volad = {};

// Base64 of gzip to bytes. No fetch of a data URL: the page's policy forbids every request.
volad.unpack = async (id) => {
  const element = document.getElementById(id);
  const text = atob(element.textContent);
  element.remove(); // the tab need not hold it twice
  const bytes = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
};

// Only the NIfTI-1 that this page's own writer makes: little-endian, uint8 or int16, one frame.
volad.readVolume = (buffer) => {
  const header = new DataView(buffer);
  const shape = [42, 44, 46].map((offset) => header.getInt16(offset, true));
  const Data = header.getInt16(70, true) === 2 ? Uint8Array : Int16Array;
  return {
    buffer,
    shape,
    slope: header.getFloat32(112, true),
    inter: header.getFloat32(116, true),
    data: new Data(buffer, header.getFloat32(108, true)),
  };
};

volad.loadVolumes = async () => {
  const volumes = {};
  for (const name of ["image", "healthy", "score", "mask"]) {
    if (!document.getElementById(`volume-${name}`)) continue;
    volumes[name] = volad.readVolume(await volad.unpack(`volume-${name}`));
  }
  return volumes;
};

// A 4x4 matrix, rows first, applied to a point.
volad.apply = (matrix, [x, y, z]) =>
  matrix.slice(0, 3).map(([a, b, c, d]) => a * x + b * y + c * z + d);

// The value at a voxel (rounded, clamped to the grid).
volad.valueAt = ({ shape, data, slope, inter }, voxel) => {
  const [i, j, k] = voxel.map((v, axis) => Math.min(Math.max(Math.round(v), 0), shape[axis] - 1));
  return slope * data[i + shape[0] * (j + shape[1] * k)] + inter;
};
