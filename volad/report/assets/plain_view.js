// The view of browsers without WebGL2: three slices drawn to plain canvases.
"use strict";

// Screen axes of each plane as [axis across, axis down]; the third axis is sliced.
volad.PLANES = [
  { name: "axial", across: 0, down: 1, through: 2 },
  { name: "coronal", across: 0, down: 2, through: 1 },
  { name: "sagittal", across: 1, down: 2, through: 0 },
];

volad.plainView = (stage, page, volumes) => {
  const shape = page.shape;
  const spacing = [0, 1, 2].map((axis) => Math.hypot(...[0, 1, 2].map((r) => page.affine[r][axis])));
  const opacity = Object.fromEntries(Object.keys(volumes).map((name) => [name, volad.opacity(name)]));
  let at = shape.map((n) => Math.floor(n / 2));
  let window_ = page.window;
  let scoreFrom = page.score.shown_from;
  let outline = volad.outlined();
  let neurological = false;

  // Up on the screen is anterior or superior; the patient's right is on the left, as in a
  // radiologist's view, and the nose of the sagittal plane on the right, as in niivue.
  const mirrored = (plane) => plane.across === 0 && !neurological;

  const grey = (value) => {
    const level = (255 * (value - window_[0])) / (window_[1] - window_[0]);
    return [level, level, level];
  };
  const heat = (value) => {
    const { shown_to: to } = page.score;
    const part = Math.min(Math.max((value - scoreFrom) / Math.max(to - scoreFrom, 1e-9), 0), 1);
    return [180 + 75 * Math.min(2 * part, 1), 20 + 220 * part, 30 + 90 * Math.max(2 * part - 1, 0)];
  };
  const blend = (color, over, alpha) => color.map((c, n) => c * (1 - alpha) + over[n] * alpha);
  const colorAt = (voxel) => {
    let color = grey(volad.valueAt(volumes.image, voxel)).map((c) => c * opacity.image);
    if (volumes.healthy && opacity.healthy) {
      color = blend(color, grey(volad.valueAt(volumes.healthy, voxel)), opacity.healthy);
    }
    const score = volad.valueAt(volumes.score, voxel);
    if (opacity.score && score > scoreFrom) color = blend(color, heat(score), opacity.score);
    if (opacity.mask && volad.valueAt(volumes.mask, voxel) > (outline ? 1 : 0)) {
      color = blend(color, [33, 208, 230], opacity.mask);
    }
    return color;
  };

  const voxelOf = (plane, column, row) => {
    const voxel = [...at];
    voxel[plane.across] = mirrored(plane) ? shape[plane.across] - 1 - column : column;
    voxel[plane.down] = shape[plane.down] - 1 - row;
    return voxel;
  };

  const drawPlane = (plane) => {
    const [width, height] = [shape[plane.across], shape[plane.down]];
    const context = plane.canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        pixels.data.set([...colorAt(voxelOf(plane, column, row)), 255], 4 * (row * width + column));
      }
    }
    context.putImageData(pixels, 0, 0);
    context.fillStyle = "rgba(127, 180, 224, 0.45)";
    const across = mirrored(plane) ? shape[plane.across] - 1 - at[plane.across] : at[plane.across];
    context.fillRect(across, 0, 1, height);
    context.fillRect(0, shape[plane.down] - 1 - at[plane.down], width, 1);
    const ends = plane.across === 0 ? ["L", "R"] : ["P", "A"];
    if (mirrored(plane)) ends.reverse();
    plane.label.textContent = `${plane.name}: ${ends[0]} is on the left, ${ends[1]} on the right`;
  };
  const draw = () => planes.forEach(drawPlane);

  const moveTo = (voxel) => {
    at = voxel.map((v, axis) => Math.min(Math.max(Math.round(v), 0), shape[axis] - 1));
    draw();
    view.onmove(view.position());
  };

  const planes = volad.PLANES.map((plane) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const label = document.createElement("figcaption");
    [canvas.width, canvas.height] = [shape[plane.across], shape[plane.down]];
    const [width, height] = [canvas.width * spacing[plane.across], canvas.height * spacing[plane.down]];
    canvas.style.aspectRatio = `${width} / ${height}`;
    figure.append(canvas, label);
    stage.append(figure);
    const drawn = { ...plane, canvas, label };
    canvas.addEventListener("click", (event) => {
      const column = Math.floor((event.offsetX / canvas.clientWidth) * canvas.width);
      const row = Math.floor((event.offsetY / canvas.clientHeight) * canvas.height);
      moveTo(voxelOf(drawn, column, row));
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      view.step(plane.through, event.deltaY < 0 ? 1 : -1);
    });
    return drawn;
  });

  const view = {
    onmove: () => {},
    onwindow: () => {},
    setLayer: (name, value) => { opacity[name] = value; draw(); },
    setWindow: (low, high) => { window_ = [low, high]; draw(); view.onwindow(low, high); },
    setScoreFrom: (value) => { scoreFrom = value; draw(); },
    setOutline: (on) => { outline = on; draw(); },
    setNeurological: (on) => { neurological = on; draw(); },
    position: () => volad.apply(page.affine, at),
    jump: (mm) => moveTo(volad.apply(page.from_world, mm)),
    step: (axis, count) => moveTo(at.map((v, n) => (n === axis ? v + count : v))),
  };
  return view;
};
