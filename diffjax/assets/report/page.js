"use strict";
document.documentElement.classList.add("js");
for (const viewer of document.querySelectorAll(".viewer")) {
  const stack = viewer.querySelector(".stack");
  const time = viewer.querySelector("input.time");
  const cut = viewer.querySelector("input.cut");
  if (time) {
    const grids = stack.querySelectorAll("img.grid");
    const said = viewer.querySelector("output.time");
    const show = () => {
      grids.forEach((grid, index) => { grid.hidden = index !== Number(time.value); });
      said.value = grids[time.value].dataset.when;
      time.setAttribute("aria-valuetext", said.value);
    };
    time.addEventListener("input", show);
    show();
  }
  if (cut) {
    const set = (percent) => { stack.style.setProperty("--cut", `${percent}%`); };
    const rest = () => { set(cut.value); };
    const follow = (event) => {
      const box = stack.getBoundingClientRect();
      set(Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width)));
    };
    cut.addEventListener("input", rest);
    stack.addEventListener("pointerdown", follow);
    stack.addEventListener("pointermove", follow);
    stack.addEventListener("pointerleave", rest);
    rest();
  }
}
